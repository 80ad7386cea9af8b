"""Quantisation on Hopper: numbers are read once, and written once."""
