"""The problems on which attention is tested and timed: what is timed is what is checked."""

import functools
from typing import Literal, NamedTuple

import numpy as np

from pallas_kernels import random_inputs

type Segments = Literal["none", "documents", "one_token", "one_per_block", "unseen_rows"]


class Case(NamedTuple):
    """One attention problem; device ones need a GPU or TPU, benchmark ones are also timed on it."""

    name: str
    batch: int
    q_len: int
    kv_len: int
    num_heads: int
    num_kv_heads: int
    qk_dim: int
    v_dim: int
    causal: bool = True
    segments: Segments = "none"
    largest_logit: float = 4.0  # about; inputs are scaled to reach it
    size: Literal["small", "device", "benchmark"] = "small"


_device = functools.partial(Case, size="device")
_benchmark = functools.partial(Case, size="benchmark")

# Small cases of equal shape share one compilation.
CASES = (
    Case("dense_block", 2, 64, 64, 2, 2, 24, 16),
    Case("logits_of_1e4", 2, 64, 64, 2, 2, 24, 16, largest_logit=1e4),
    Case("odd_length", 1, 97, 97, 2, 1, 24, 16),
    Case("one_token", 2, 1, 1, 2, 2, 24, 16),
    Case("full", 1, 100, 100, 2, 2, 16, 16, causal=False),
    Case("grouped_queries", 1, 100, 100, 6, 2, 16, 8),
    Case("chunked_prefill", 1, 40, 100, 2, 2, 24, 16),
    Case("more_queries_than_keys", 1, 100, 40, 2, 2, 24, 16),
    Case("documents", 2, 150, 150, 2, 2, 24, 16, segments="documents"),
    Case("one_token_segments", 2, 150, 150, 2, 2, 24, 16, segments="one_token"),
    Case("one_segment_per_block", 2, 150, 150, 2, 2, 24, 16, segments="one_per_block"),
    Case("unseen_rows", 2, 150, 150, 2, 2, 24, 16, segments="unseen_rows"),
    Case("documents_both_ways", 2, 130, 90, 2, 1, 24, 16, causal=False, segments="documents"),
    Case("scanned_tiles", 1, 600, 600, 2, 1, 24, 16, segments="documents"),
    Case("scanned_prefill", 1, 70, 700, 2, 2, 16, 8),
    _device("mla_odd_length", 2, 333, 333, 2, 2, 192, 128),
    _device("mla_one_token", 2, 1, 1, 2, 2, 192, 128),
    _device("mla_full", 1, 500, 500, 2, 2, 192, 128, causal=False),
    _device("mla_chunked_prefill", 1, 130, 1000, 4, 4, 192, 128),
    _device("mla_more_queries_than_keys", 1, 1000, 130, 4, 4, 192, 128),
    _device("mla_documents", 2, 1000, 1000, 4, 4, 192, 128, segments="documents"),
    _device("mla_one_token_segments", 2, 1000, 1000, 4, 4, 192, 128, segments="one_token"),
    _device("mla_one_segment_per_block", 2, 1000, 1000, 4, 4, 192, 128, segments="one_per_block"),
    _device("mla_unseen_rows", 2, 1000, 1000, 4, 4, 192, 128, segments="unseen_rows"),
    _device("mla_logits_of_1e4", 2, 512, 512, 4, 4, 192, 128, largest_logit=1e4),
    _device("grouped_documents_128", 1, 1000, 1000, 8, 2, 128, 128, segments="documents"),
    _device("logits_of_1e4_128", 1, 512, 512, 4, 4, 128, 128, largest_logit=1e4),
    _device("grouped_both_ways_64", 1, 77, 333, 6, 2, 64, 64, False, "documents"),
    _device("square_192", 1, 500, 500, 2, 2, 192, 192),
    _device("more_queries_than_keys_256", 1, 300, 200, 2, 2, 256, 256),
    _benchmark("kanana_2_30b_4k", 4, 4096, 4096, 32, 32, 192, 128),
    _benchmark("kanana_2_30b_16k", 1, 16384, 16384, 32, 32, 192, 128),
    _benchmark("kanana_2_16k_packed", 1, 16384, 16384, 32, 32, 192, 128, segments="documents"),
    _benchmark("kimi_k2_4k", 2, 4096, 4096, 64, 64, 192, 128),
    _benchmark("width_128_4k", 4, 4096, 4096, 32, 32, 128, 128),
    _benchmark("width_64_grouped_4k", 4, 4096, 4096, 32, 8, 64, 64),
    _benchmark("width_256_4k", 2, 4096, 4096, 16, 16, 256, 256),
)
SMALL_CASES = tuple(case for case in CASES if case.size == "small")
DEVICE_CASES = tuple(case for case in CASES if case.size != "small")
BENCHMARK_CASES = tuple(case for case in CASES if case.size == "benchmark")


class Inputs(NamedTuple):
    """Float32 numpy arrays, and segment ids or None, in the layouts of flash_attention."""

    q: np.ndarray
    k: np.ndarray
    v: np.ndarray
    dout: np.ndarray
    segment_ids: tuple[np.ndarray, np.ndarray] | None


def make_inputs(case: Case, seed: int = 0) -> Inputs:
    """Draws the inputs of a case, the same ones for the same seed."""
    rng = np.random.default_rng(seed)
    q_rows, kv_rows = (case.batch, case.q_len), (case.batch, case.kv_len)
    # Normal scores reach about 4 standard deviations.
    gain = (case.largest_logit / 4.0) ** 0.5
    q = gain * random_inputs.normal(rng, *q_rows, case.num_heads, case.qk_dim)
    k = gain * random_inputs.normal(rng, *kv_rows, case.num_kv_heads, case.qk_dim)
    v = random_inputs.normal(rng, *kv_rows, case.num_kv_heads, case.v_dim)
    dout = random_inputs.normal(rng, *q_rows, case.num_heads, case.v_dim)
    return Inputs(q, k, v, dout, _segment_ids(case, rng))


def _segment_ids(case, rng) -> tuple[np.ndarray, np.ndarray] | None:
    def sorted_ids(length, num_segments=8):
        cuts = rng.integers(1, length, (case.batch, num_segments - 1))
        return (cuts[:, :, None] <= np.arange(length)).sum(axis=1, dtype=np.int32) + 1

    def both(ids):
        ids = np.broadcast_to(ids, (case.batch, case.q_len)).astype(np.int32)
        return ids, ids

    match case.segments:
        case "none":
            return None
        case "documents":
            ids = sorted_ids(case.q_len)
            return ids, ids if case.kv_len == case.q_len else sorted_ids(case.kv_len)
        case "one_token":
            return both(np.arange(case.q_len))
        case "one_per_block":
            return both(np.arange(case.q_len) // 64)
        case "unseen_rows":
            # The first sequence sees nothing; in the others every third query sees nothing.
            q_ids, kv_ids = (ids.copy() for ids in both(np.ones(case.q_len)))
            q_ids[0], q_ids[1:, ::3] = -7, 0
            return q_ids, kv_ids
