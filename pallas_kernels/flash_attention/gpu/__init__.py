"""Attention for Hopper GPUs; `dispatch` is what the op calls."""
