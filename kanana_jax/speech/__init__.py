"""Speech: features of what is heard, tokens of what is said, and sound from tokens."""
