"""Attention for TPUs; `dispatch` is what the op calls."""
