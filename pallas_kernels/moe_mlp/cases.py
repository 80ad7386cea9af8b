"""The problems on which the routed experts are tested and timed: what is timed is what is checked.

Letters: T tokens, K experts per token, E experts, F expert width, D hidden width.
"""

from typing import NamedTuple

import numpy as np

from pallas_kernels import random_inputs


class Case(NamedTuple):
    """One layer; experts' popularity is drawn from Dirichlet(concentration)."""

    name: str
    num_tokens: int
    hidden: int
    width: int
    num_experts: int
    top_k: int
    num_shared: int = 2  # experts every token visits; only the benchmark computes them
    concentration: float = 4.0
    is_small: bool = True


CASES = (
    Case("two_of_five", 96, 16, 12, 5, 2),
    Case("one_token", 1, 16, 12, 5, 2),
    Case("one_choice", 130, 16, 12, 5, 1),
    Case("idle_experts", 7, 16, 12, 24, 2, concentration=0.1),
    Case("one_expert_takes_all", 96, 16, 12, 1, 1),
    Case("kanana_2_30b", 8192, 2048, 768, 128, 6, is_small=False),
    Case("moonlight", 8192, 2048, 1408, 64, 6, is_small=False),
)
SMALL_CASES = tuple(case for case in CASES if case.is_small)
BENCHMARK_CASES = tuple(case for case in CASES if not case.is_small)


class Inputs(NamedTuple):
    """Numpy arrays in the layouts of moe_mlp, ids in int32 and the others in float32."""

    x_TD: np.ndarray
    w_gate_up_E2FD: np.ndarray
    w_down_EFD: np.ndarray
    expert_ids_TK: np.ndarray
    weights_TK: np.ndarray
    dy_TD: np.ndarray


def make_inputs(case: Case, seed: int = 0) -> Inputs:
    """Draws the inputs of a case, the same ones for the same seed."""
    rng = np.random.default_rng(seed)
    num_tokens, hidden, width, num_experts = case[1:5]

    def matrices(*shape, fan_in):
        return random_inputs.normal(rng, num_experts, *shape) * np.float32(fan_in**-0.5)

    x_TD = random_inputs.normal(rng, num_tokens, hidden)
    weights_TK = rng.uniform(0.1, 1, (num_tokens, case.top_k)).astype(np.float32)
    return Inputs(
        x_TD,
        matrices(2, width, hidden, fan_in=hidden),
        matrices(width, hidden, fan_in=width),
        _draw_experts(case, rng),
        weights_TK,
        random_inputs.normal(rng, num_tokens, hidden),
    )


def _draw_experts(case, rng):
    """Each token's experts, drawn without replacement in proportion to popularity."""
    popularity_E = rng.dirichlet(np.full(case.num_experts, case.concentration))
    score_TE = np.log(popularity_E + 1e-30) + rng.gumbel(size=(case.num_tokens, case.num_experts))
    return np.argsort(-score_TE, axis=1)[:, : case.top_k].astype(np.int32)
