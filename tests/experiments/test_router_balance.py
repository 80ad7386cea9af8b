"""Claims about the verdict on balance: for every branch, data on which it flips."""

import dataclasses

import fabricate
import numpy as np
import pytest

from experiments import router_balance
from experiments.router_balance import measures, report, verdict
from kanana_jax.config import ConfigError

MODEL = {"num_layers": 3, "num_dense_layers": 1, "num_experts": 8, "num_experts_per_token": 2}
TRAIN = {
    "sign": {"router_balance": "sign", "router_bias_rate": 0.001},
    "quantile": {"router_balance": "quantile", "router_bias_rate": 0.001},
    "none": {"router_balance": "sign", "router_bias_rate": 0.0},
}


@pytest.fixture
def sweep(tmp_path):
    """An arm of each kind; keywords change single ones, `seed_step` their MaxVio from seed on."""

    def make(*, seeds=3, axes=None, **changes):
        runs = []
        for arm, usual in (
            ("sign", {"max_vio": 1.0, "bpb": 3.0}),
            ("quantile", {"max_vio": 0.3, "bpb": 3.0}),
            ("none", {"max_vio": 2.0, "bpb": 3.1}),
        ):
            if changes.get(arm, ()) is None:
                continue
            for seed in range(seeds):
                given = usual | changes.get(arm, {})
                given["max_vio"] += given.pop("seed_step", 0.02) * seed
                at = {"arm": arm, "seed": seed} | (axes or {})
                run = fabricate.run(tmp_path, arm=arm, seed=seed, axes=at, **given)
                settings = {"model": MODEL, "train": TRAIN[arm]}
                settings["data"] = {"batch_size": 8, "seq_len": 128}
                settings["optimizer"] = run.config["optimizer"]
                runs.append(dataclasses.replace(run, config=settings))
        return runs

    return make


def claim(runs, words):
    (found,) = [one for one in verdict.judge(runs).claims if words in one.question]
    return found


def test_a_third_of_the_mean_max_vio_at_equal_loss_holds(sweep):
    judged = verdict.judge(sweep())
    assert judged.headline == (
        "Quantile balancing holds against sign: its MaxVio is at most half and its held-out loss "
        "is as good."
    )
    assert [one.holds for one in judged.claims] == [True, True, True, None, None]
    assert "0.320 against 1.020, 0.31 times" in judged.claims[0].answer


def test_more_than_half_does_not_hold(sweep):
    runs = sweep(quantile={"max_vio": 0.6})
    assert claim(runs, "at most half").holds is False
    assert verdict.judge(runs).headline == (
        "Quantile balancing does not hold against sign: its MaxVio is more than half."
    )


def test_a_worse_loss_does_not_hold(sweep):
    runs = sweep(quantile={"bpb": 3.2})
    assert claim(runs, "at most half").holds is True
    assert "does not hold against sign: its held-out loss is worse." in verdict.judge(runs).headline


def test_a_band_over_seeds_that_holds_half_decides_nothing(sweep):
    runs = sweep(quantile={"max_vio": 0.4, "seed_step": 0.12})
    found = claim(runs, "at most half")
    assert found.holds is None and found.answer.startswith("Not resolved: 0.520 against 1.020")
    assert "not decided whether its MaxVio is at most half." in verdict.judge(runs).headline


def test_seeds_are_paired(sweep):
    """Half of the sign rule's differs between seeds by as much as quantile balancing's."""
    runs = sweep(quantile={"max_vio": 0.45, "seed_step": 0.2}, sign={"seed_step": 0.4})
    assert claim(runs, "at most half").holds is True


def test_two_seeds_say_what_happened(sweep):
    runs = sweep(seeds=2)
    found = claim(runs, "at most half")
    assert found.holds is None and "in 2 seeds; a verdict takes 3" in found.answer
    assert verdict.judge(runs).headline.endswith("This is what 2 seeds did.")


def test_a_diverged_run_leaves_balance_unmeasured(sweep):
    runs = sweep(sign={"diverged_step": 20})
    assert claim(runs, "at most half").answer == "Not measured: a run diverged."
    assert claim(runs, "as good as").holds is True


def test_a_rule_that_leaves_loads_as_the_control_does_is_said(sweep):
    assert claim(sweep(), "balance at all").holds is True
    assert claim(sweep(sign={"max_vio": 2.5}), "balance at all").holds is False


def test_without_both_rules_there_is_no_verdict(sweep):
    for left_out in ("sign", "quantile"):
        judged = verdict.judge(sweep(**{left_out: None}))
        assert judged.headline.startswith("Quantile balancing and the sign rule did not both run")
    with pytest.raises(ValueError, match="at least one finished run"):
        verdict.judge([])


def test_max_vio_is_of_the_last_third_of_steps(sweep):
    (run, *_) = sweep(sign={"max_vio": 0.7}, seeds=1)
    found = measures.max_vio(run)
    assert found.mean == pytest.approx(0.7)
    assert 0.7 < found.worst < 2.0
    assert run.series("max_vio").values_N[0] > 2.0


@pytest.mark.parametrize(("num_tokens", "num_experts", "top_k"), [(1024, 8, 2), (4096, 64, 6)])
def test_the_floor_is_that_of_tokens_that_choose_at_random(num_tokens, num_experts, top_k):
    rng = np.random.default_rng(1)
    seen = []
    for _ in range(200):
        chosen = rng.random((num_tokens, num_experts)).argpartition(top_k, axis=1)[:, :top_k]
        load = np.bincount(chosen.ravel(), minlength=num_experts)
        seen.append(load.max() / load.mean() - 1)
    floor = measures.chance(num_tokens, num_experts, top_k, 1)
    # The mean of 200 draws, which differ by a third of it.
    assert floor.mean == pytest.approx(np.mean(seen), rel=0.08)
    assert floor.worst == floor.mean
    assert measures.chance(num_tokens, num_experts, top_k, 4).worst > 1.1 * floor.mean


def test_the_verdict_names_the_floor_and_multiples_of_it(sweep):
    runs = sweep()
    floor = measures.chance(1024, 8, 2, 2)
    found = claim(runs, "at random")
    assert found.answer.startswith(f"{floor.mean:.3f} in the mean of layers")
    assert f"quantile: 0.320, {0.32 / floor.mean:.1f} times it" in found.details[1]


@pytest.mark.long
def test_the_report_has_the_verdict_and_the_floor_in_the_picture(sweep, tmp_path):
    text = report.write(sweep(seeds=1), fabricate.about(), tmp_path / "page" / "report.html")
    page = (tmp_path / "page" / "report.html").read_text()
    assert "MaxVio, worst layer" in text and "How experts are balanced" in page
    assert text.isascii()
    assert {"max_vio", "expert_load"} <= {one.stem for one in (tmp_path / "page").glob("*.png")}
    (balance, *_) = report.pictures()
    heights = [row.references[0].heights(sweep(seeds=1)) for row in balance.rows]
    assert heights == [[0.1], [0.08]]


@pytest.mark.long
def test_other_axes_get_the_report_of_any_comparison(sweep, tmp_path):
    runs = sweep(seeds=1, axes={"optimizer.lr": 0.01})
    text = report.write(runs, fabricate.about(), tmp_path / "page" / "report.html")
    assert "Is quantile's held-out loss as good as sign's" in text


def test_arms_differ_in_the_balance_alone():
    made = router_balance.experiment()
    edits = {arm.name: arm.edits for arm in made.arms}
    assert all(edit.startswith("train.router_b") for one in edits.values() for edit in one)
    with pytest.raises(ConfigError, match="what the arms compare"):
        made.edited(["train.router_balance=quantile"])
