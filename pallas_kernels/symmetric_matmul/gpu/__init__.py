"""Symmetric products for Hopper GPUs; `dispatch` is what the op calls."""
