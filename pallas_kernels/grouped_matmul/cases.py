"""The problems on which grouped products are tested and timed: what is timed is what is checked."""

from typing import NamedTuple

import numpy as np

from pallas_kernels import random_inputs


class Case(NamedTuple):
    """One grouped product; without group_sizes, a Dirichlet(concentration) draw splits all rows."""

    name: str
    num_rows: int
    contracted: int
    out_width: int
    num_groups: int
    group_sizes: tuple[int, ...] | None = None
    concentration: float = 4.0  # infinity: balanced
    is_small: bool = True


# Small cases of equal shape share one compilation.
CASES = (
    Case("balanced", 512, 24, 40, 4, concentration=np.inf),
    Case("skewed", 700, 24, 40, 6, concentration=0.3),
    Case("empty_groups", 384, 16, 24, 4, (0, 120, 0, 264)),
    Case("one_group_with_everything", 384, 16, 24, 4, (0, 0, 384, 0)),
    Case("first_group_with_everything", 384, 16, 24, 4, (384, 0, 0, 0)),
    Case("all_groups_empty", 384, 16, 24, 4, (0, 0, 0, 0)),
    Case("rows_beyond_the_groups", 384, 16, 24, 4, (7, 129, 40, 1)),
    Case("exact_blocks", 384, 16, 24, 4, (128, 0, 128, 128)),
    Case("one_row_over_a_block", 384, 16, 24, 4, (129, 1, 254, 0)),
    Case("one_row_each", 5, 16, 24, 5, (1, 1, 1, 1, 1)),
    Case("more_groups_than_rows", 3, 16, 24, 9, (0, 1, 0, 0, 1, 0, 0, 1, 0)),
    Case("one_group", 200, 16, 24, 1, (200,)),
    Case("kanana_2_30b_up", 49_152, 2048, 1536, 128, is_small=False),
    Case("kanana_2_30b_up_balanced", 49_152, 2048, 1536, 128, None, np.inf, False),
    Case("kanana_2_30b_up_16k_tokens", 98_304, 2048, 1536, 128, is_small=False),
    Case("kanana_2_30b_down", 49_152, 768, 2048, 128, is_small=False),
    Case("moonlight_up", 49_152, 2048, 2816, 64, is_small=False),
    Case("moonlight_down", 49_152, 1408, 2048, 64, is_small=False),
    Case("kimi_k2_16_way_up", 65_536, 7168, 4096, 24, is_small=False),
    Case("kimi_k2_16_way_down", 65_536, 2048, 7168, 24, is_small=False),
    Case("wide_32_groups", 65_536, 7168, 4096, 32, is_small=False),
    Case("mixtral_up", 16_384, 4096, 28_672, 8, is_small=False),
)
SMALL_CASES = tuple(case for case in CASES if case.is_small)
BENCHMARK_CASES = tuple(case for case in CASES if not case.is_small)


class Inputs(NamedTuple):
    """Float32 numpy arrays in the layouts of grouped_matmul, and int32 group sizes."""

    lhs: np.ndarray
    rhs: np.ndarray
    grad: np.ndarray
    group_sizes: np.ndarray


def make_inputs(case: Case, seed: int = 0) -> Inputs:
    """Draws the inputs of a case, the same ones for the same seed."""
    rng = np.random.default_rng(seed)
    rhs_shape = case.num_groups, case.contracted, case.out_width
    lhs = random_inputs.normal(rng, case.num_rows, case.contracted)
    rhs = random_inputs.normal(rng, *rhs_shape) * np.float32(case.contracted**-0.5)
    grad = random_inputs.normal(rng, case.num_rows, case.out_width)
    return Inputs(lhs, rhs, grad, make_group_sizes(case, rng))


def make_group_sizes(case: Case, rng: np.random.Generator) -> np.ndarray:
    """The sizes a case fixes, or a draw with its concentration."""
    if case.group_sizes is not None:
        return np.array(case.group_sizes, np.int32)
    shares = np.full(case.num_groups, 1.0 / case.num_groups)
    if np.isinf(case.concentration):
        ends = np.round(np.cumsum(shares) * case.num_rows).astype(np.int32)
        return np.diff(ends, prepend=0).astype(np.int32)
    shares = rng.dirichlet(np.full(case.num_groups, case.concentration))
    return rng.multinomial(case.num_rows, shares).astype(np.int32)
