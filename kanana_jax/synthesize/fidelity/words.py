"""Lists of words, as they are written in the files that have them."""


def listed(text: str) -> list[str]:
    """Words between blanks and line ends."""
    return text.split()
