"""Normal numbers for test cases, quick also where a case has a thousand million of them."""

import numpy as np

# A prime: rows of no usual width repeat within a matrix of fewer than this many rows.
PERIOD = 4_194_301


def normal(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Float32 standard normal numbers of this shape; after PERIOD of them the same ones follow."""
    size = int(np.prod(shape))
    return np.resize(rng.standard_normal(min(size, PERIOD), np.float32), shape)
