"""Passes over rows of experts on Hopper: what surrounds the products is read and written once."""
