"""Normal numbers for test cases, quick even for a case with a thousand million of them."""

import numpy as np

# A prime: at any usual width, rows do not repeat within a matrix of fewer than this many rows.
PERIOD = 4_194_301


def normal(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Float32 standard normal numbers of this shape; they repeat after PERIOD of them."""
    size = int(np.prod(shape))
    return np.resize(rng.standard_normal(min(size, PERIOD), np.float32), shape)
