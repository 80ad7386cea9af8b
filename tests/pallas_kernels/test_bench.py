"""The benchmark: model FLOPs, ratios to the best peer, and the whole program on a CPU."""

import functools
import json

import jax
import numpy as np
import pytest

import pallas_kernels
from pallas_kernels.bench import __main__ as command
from pallas_kernels.bench import attention, grouped_matmul, moe, record, symmetric_matmul, timing
from pallas_kernels.flash_attention import cases
from pallas_kernels.grouped_matmul import cases as matmul_cases
from pallas_kernels.moe_mlp import cases as moe_cases
from pallas_kernels.symmetric_matmul import cases as symmetric_cases

TIMES = (
    timing.Row("a", "forward", "ours (xla)", 2.0, 1.0),
    timing.Row("a", "forward", "slow peer", 4.0, 0.5),
    timing.Row("a", "forward", "best peer", 3.0, 0.7),
    timing.Row("a", "forward", "absent peer", None, None, "not importable"),
    timing.Row("a", "forward", "bound: no groups", 0.5, 4.0),
    timing.Row("b", "forward", "other case", 0.1, 20.0),
)


def test_causal_attention_counts_half_and_backward_five_products():
    case = cases.Case("x", 4, 4096, 4096, 32, 32, 192, 128)
    forward, both = attention.flops(case, None).values()
    assert forward == 4 * 32 * 4096**2 * (192 + 128)
    assert both - forward == 4 * 32 * 4096**2 * (3 * 192 + 2 * 128)
    assert attention.flops(case._replace(causal=False), None)["forward"] == 2 * forward


def test_packed_attention_counts_only_pairs_within_a_segment():
    ids = np.array([[1, 1, 1, 2]])
    case = cases.Case("x", 1, 4, 4, 1, 1, 8, 8, causal=False)
    assert attention.flops(case, (ids, ids))["forward"] == 2 * (9 + 1) * 16


def test_a_grouped_product_counts_two_flops_per_row_and_weight():
    assert grouped_matmul.flops(matmul_cases.Case("x", 10, 3, 5, 2)) == 300


def test_a_moe_layer_counts_three_products_per_visited_expert_and_twice_that_backward():
    case = moe_cases.Case("x", 10, 3, 5, 7, 2, num_shared=1)
    assert moe.flops(case) == {"forward": 2700, "forward+backward": 8100}


def test_plain_autodiff_keeps_more_than_three_times_as_much_per_token():
    case = next(case for case in moe_cases.CASES if case.name == "kanana_2_30b")
    ours = moe.kept_bytes_per_token(pallas_kernels.moe_mlp, case)
    assert moe.kept_bytes_per_token(moe.plain, case) > 3 * ours


def test_plain_layer_of_the_benchmark_computes_the_same():
    x, w_gate_up, w_down, ids, weights, _ = moe_cases.make_inputs(moe_cases.SMALL_CASES[0])
    layers = pallas_kernels.moe_mlp, moe.plain
    ours, plain = (jax.jit(layer)(x, w_gate_up, w_down, ids, weights) for layer in layers)
    np.testing.assert_allclose(ours, plain, rtol=1e-4, atol=1e-5)


def test_symmetric_products_count_the_whole_square_and_a_step_three_products():
    case = symmetric_cases.Case("x", "gram", 2, 3, 10)
    product = 2 * 2 * 3 * 3 * 10
    step = 2 * product + 2 * 2 * 3 * 3 * 3
    assert symmetric_matmul.flops(case) == {"product": product, "five steps": 5 * step}


def test_timed_iterations_give_the_same_factor():
    # Full rank: the forms differ by rounding alone.
    x = jax.random.normal(jax.random.key(0), (2, 16, 48))
    got, want = (
        jax.jit(functools.partial(form, symmetric=symmetric_matmul.plain))(x)
        for form in (symmetric_matmul.gram, symmetric_matmul.direct)
    )
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-5)
    assert 0.6 < np.linalg.svd(want, compute_uv=False).min() < 1.2


def test_ratio_compares_ours_with_the_fastest_peer_of_the_same_case():
    assert record.ratio(TIMES[0], list(TIMES)) == "1.500 x best peer"
    assert record.ratio(TIMES[1], list(TIMES)) == ""


def test_table_is_aligned_and_says_why_a_peer_is_absent():
    lines = record.table(list(TIMES)).splitlines()
    assert len({line.index("forward") for line in lines[1:]}) == 1
    assert lines[4].endswith("not importable")
    (line,) = record.table([timing.Row("a", "forward", "ours", 1.0, 1.0, error=2e-3)]).splitlines()[
        1:
    ]
    assert line.endswith("error 2.0e-03")


def test_a_failing_peer_becomes_a_row_with_its_reason():
    def run():
        raise RuntimeError("out of memory\nmore")

    row = timing.attempt("a", "forward", "peer", 1.0, run, lambda _: None)
    assert row.ms is None and row.reason == "RuntimeError: out of memory"


def test_time_is_per_call_and_in_milliseconds(monkeypatch):
    clock = iter(np.arange(0, 1, 1e-3))
    monkeypatch.setattr(timing.time, "perf_counter", lambda: next(clock))
    ms = timing.measure(lambda: None, lambda _: None)
    np.testing.assert_allclose(ms, 1.0 / timing.MAX_CALLS)


@pytest.mark.long
def test_program_runs_on_a_cpu_and_records_what_it_ran_on(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    out = tmp_path / "times.json"
    names = ("full", "one_group", "two_of_five")
    argv = [*command.OPS, *(word for name in names for word in ("--case", name))]
    assert command.main([*argv, "--out", str(out)]) == 0
    recorded = json.loads(out.read_text())
    assert {"commit", "device", "driver", "runtime", "packages", "command"} < set(recorded)
    ours = [row for row in recorded["rows"] if row["implementation"].startswith("ours")]
    assert len(ours) == 2 + 3 + 4 + 9 and all(row["ms"] > 0 for row in ours)
    shown = capsys.readouterr().out
    assert "needs an NVIDIA GPU" in shown and "kB per token" in shown


def test_unknown_cases_are_named(capsys):
    with pytest.raises(SystemExit):
        command.main(["attention", "--case", "nothing"])
    assert "unknown cases ['nothing']" in capsys.readouterr().err
