"""Claims about the verdict on stages: for every question, data on which its answer flips."""

import json

import pytest

from experiments import kanana_post, kanana_post_h100
from experiments.kanana_post import jobs, verdict
from kanana_jax.report import metrics
from kanana_jax.report.results import Run

SIZES = {"laptop": kanana_post.LAPTOP, "h100": kanana_post_h100.SIZE}
GOOD = {
    "sft": {"valid_turns": 0.99, "success_products": 0.3, "success_chain_sum": 0.2},
    "thinking": {"success_chain_sum": 0.9},
    "more_sft": {"success_products": 0.4},
    "rejection": {"success_products": 0.8, "success_small_talk": 0.3},
    "reward": {"accuracy": 0.95},
    "dpo": {"success_small_talk": 0.7},
    "chosen": {"success_small_talk": 0.5},
    "online": {"win_rate": 0.6, "longer_by": 1.0, "ece_stated": 0.4, "answer_accuracy": 0.6},
    "online_by_model": {"win_rate": 0.45},
    "calibration": {"ece_stated": 0.1, "answer_accuracy": 0.6},
}


@pytest.fixture
def judged(tmp_path):
    """Judges runs that did well, but for the values that are given by stage."""
    (tmp_path / metrics.METRICS_NAME).touch()

    def judge(seeds=3, practised=("products",), **changes):
        runs = [
            Run(
                directory=tmp_path,
                status="ok",
                axes={"arm": stage, "seed": seed},
                values={
                    f"heldout_{name}": value + 0.001 * seed
                    for name, value in (values | changes.get(stage, {})).items()
                },
            )
            for stage, values in GOOD.items()
            for seed in range(seeds)
        ]
        return verdict.judge(runs, practised, ("chain_sum",))

    return judge


def test_stages_that_do_what_they_are_for_hold_every_claim(judged):
    headline, found = judged()
    assert headline == "11 of 13 claims hold, 0 do not."
    assert [one.question for one in found if one.holds is None] == [
        "Where the reward model judges, what becomes of its score and of the rubric's?",
        "By how many bytes are its answers longer?",
    ]


@pytest.mark.parametrize(
    ("place", "change"),
    [
        (0, {"sft": {"valid_turns": 0.97}}),
        (1, {"thinking": {"success_chain_sum": 0.3}}),
        (2, {"rejection": {"success_products": 0.45, "success_small_talk": 0.3}}),
        (3, {"more_sft": {"success_products": 0.85}}),
        (4, {"reward": {"accuracy": 0.8}}),
        (5, {"dpo": {"success_small_talk": 0.2}}),
        (6, {"chosen": {"success_small_talk": 0.75}}),
        (7, {"online": {"win_rate": 0.4}}),
        (8, {"online_by_model": {"win_rate": 0.7}}),
        (11, {"calibration": {"ece_stated": 0.3}}),
        (12, {"calibration": {"answer_accuracy": 0.5}}),
    ],
)
def test_each_claim_falls_with_what_it_is_about(judged, place, change):
    _, found = judged(**change)
    assert found[place].holds is False
    assert judged()[1][place].holds is True


def test_an_optimised_judge_is_told_by_both_scores_of_the_first_and_last_round(tmp_path):
    lines = [{"step": 15, "round_score": 1.5, "round_reward": 0.4},
             {"step": 30, "round_score": 2.5, "round_reward": 0.3}]  # fmt: skip
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (tmp_path / metrics.METRICS_NAME).write_text(text)
    one = Run(directory=tmp_path, status="ok", axes={"arm": "online_by_model", "seed": 0})
    _, found = verdict.judge([one], ("products",), ("chain_sum",))
    assert found[9].details == ("seed 0: its own 1.50 to 2.50, the rubric's 0.40 to 0.30",)


def test_one_seed_decides_nothing_that_needs_a_band(judged):
    _, found = judged(seeds=1)
    assert [place for place, one in enumerate(found) if one.holds is not None] == [0, 4]


def test_several_practised_families_count_by_their_mean(judged):
    shop = {"sft": {"success_shop": 0.3}, "rejection": {"success_shop": 0.4}}
    _, found = judged(practised=("products", "shop"), **shop)
    assert found[2].answer.startswith("It rises by 0.300 +- ")
    _, found = judged(practised=("products",), **shop)
    assert found[2].answer.startswith("It rises by 0.500 +- ")


@pytest.mark.parametrize("name", SIZES)
def test_every_stage_has_a_job_and_one_shape_of_batch(name):
    size = SIZES[name]
    stages = kanana_post.made("made", size).stages
    assert [stage.name for stage in stages] == list(jobs.of(size))
    shapes = {(one.base.data.seq_len, one.base.data.batch_size) for one in stages}
    assert shapes == {(size.data.seq_len, size.data.batch_size)}
    own = [stage.base for stage in stages if not stage.init_from]
    assert [one.model for one in own] == [size.model]


@pytest.mark.parametrize("name", SIZES)
def test_what_is_practised_is_measured_beside_chat_and_sums(name):
    size = SIZES[name]
    held = size.measured()
    assert [rollouts.families for rollouts, _ in held] == [
        size.practised,
        ("small_talk",),
        (size.sums,),
    ]
    rejection = next(
        one for one in kanana_post.made("made", size).stages if one.name == "rejection"
    )
    assert rejection.base.rejection.rollouts.families == size.practised
