"""Spoken streams: speech tokens and their sound, for listeners who play it as it comes."""
