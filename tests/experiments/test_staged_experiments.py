"""Claims about the verdicts of experiments in stages: for every branch, data on which it flips."""

import json

import fabricate
import numpy as np
import pytest

from experiments import (
    batch_ramp,
    mid_training,
    mid_training_h100,
    staged_pretraining,
    staged_pretraining_h100,
    weight_average,
)
from kanana_jax.model import presets
from kanana_jax.report import metrics, results

SEQUENCES = 64


def made(folder, arm, seed, by_source, *, lr=0.01, steps=300, paths=("code", "prose"), **values):
    """A finished run whose held-out loss is `by_source`, in bits per byte, by label."""
    rng = np.random.default_rng(seed)
    of_sequence = rng.uniform(0.5, 1.5, SEQUENCES)  # alike in all arms of a seed
    num_bytes = np.full(SEQUENCES, 100.0)
    record = {"step": steps, "loss": 1.0, "max_logit": 1.0}
    for source, bpb in by_source.items():
        name = f"_{source}" if source else ""
        noise = rng.normal(0, 0.01, SEQUENCES)
        nats = (bpb * of_sequence / of_sequence.mean() + noise) * num_bytes * np.log(2)
        record |= {f"heldout_nats{name}": nats.tolist(), f"heldout_bytes{name}": num_bytes.tolist()}
        values[f"heldout_bpb{name}"] = bpb
    directory = folder / f"{arm}-{lr:g}-{seed}".replace(" ", "_").replace(":", "")
    directory.mkdir(parents=True)
    (directory / metrics.METRICS_NAME).write_text(json.dumps(record) + "\n")
    axes = {"arm": arm, "optimizer.lr": lr, "seed": seed} if lr else {"arm": arm, "seed": seed}
    result = {"status": "ok", "steps": steps, "seconds": 9.0, "axes": axes, "values": values}
    (directory / results.RESULT_NAME).write_text(json.dumps(result))
    settings = {"data": {"paths": list(paths)}, "optimizer": {"tau": 30.0, "lr": lr}, "train": {}}
    (directory / results.RUN_NAME).write_text(json.dumps({"config": settings}))
    return results.load(directory)


def holds(found):
    return [one.holds for one in found]


@pytest.fixture
def orders(tmp_path):
    def make(seeds=3, **by_arm):
        names = {"even": staged_pretraining.EVEN, "late": staged_pretraining.LATE,
                 "early": staged_pretraining.EARLY}  # fmt: skip
        return [
            made(tmp_path, names[arm], seed, {"code": code, "prose": prose}, lr=0)
            for arm, (code, prose) in by_arm.items()
            for seed in range(seeds)
        ]

    return make


@pytest.mark.parametrize(
    ("late", "headline", "wanted"),
    [
        ((2.0, 2.5), "Prose read late is learned better than mixed evenly.", [True, True, True]),
        ((2.0, 3.5), "Prose read late is learned worse than mixed evenly.", [False, False, True]),
        ((2.5, 3.0), "When prose is read makes no difference that matters.", [False, True, False]),
    ],
)
def test_the_order_of_text_is_judged_by_each_text(orders, late, headline, wanted):
    runs = orders(even=(2.0, 3.0), late=late, early=(2.0, 3.2))
    words, found = staged_pretraining.judge(runs)
    assert words == headline
    assert holds(found) == wanted


def test_one_seed_and_one_order_decide_nothing(orders):
    words, found = staged_pretraining.judge(orders(seeds=1, even=(2.0, 3.0), late=(2.0, 2.5)))
    assert holds(found) == [None, None, None]
    assert found[1].answer == "Not measured."  # no run had it early
    words, found = staged_pretraining.judge(orders(early=(2.0, 3.0)))
    assert found == [] and words == "One order alone decides nothing."


def test_every_order_reads_as_much_of_each_text():
    comparison = staged_pretraining.experiment()
    for arm in comparison.arms:
        stages = comparison.base.edited(arm.edits).stages
        tokens = np.array([stage.tokens for stage in stages])
        best = np.array([stage.weights[1] / sum(stage.weights) for stage in stages])
        assert (tokens * best).sum() / tokens.sum() == pytest.approx(0.2)


@pytest.fixture
def trained(tmp_path):
    """A base, and mid-training with each share of replay: (english, korean, accuracy)."""

    def make(seeds=3, base=(2.6, 0.9, 0.0), none=(9.0, 7.0, 0.9), fifth=(2.6, 0.9, 0.9),
             half=(2.6, 0.9, 0.9)):  # fmt: skip
        given = {mid_training.BASE: base} | {
            f"{mid_training.MID}: {mid_training.arm_name(share)}": values
            for share, values in zip(mid_training.SHARES, (none, fifth, half), strict=True)
        }
        return [
            made(tmp_path, arm, seed, {"": english, "english": english, "korean": korean}, lr=0,
                 paths=mid_training.PATHS, heldout_accuracy=accuracy + 0.01 * seed,
                 heldout_constant_accuracy=0.3)
            for arm, (english, korean, accuracy) in given.items()
            for seed in range(seeds)
        ]  # fmt: skip

    return make


def test_replay_that_keeps_text_where_none_forgets_it_holds(trained):
    headline, found = mid_training.judge(trained())
    assert headline == "Replay of a fifth keeps what mid-training without replay forgets."
    assert holds(found) == [True, True, True, True, True]
    assert "english: +6.4000 +- " in found[1].details[0]


@pytest.mark.parametrize(
    ("changes", "headline", "wanted"),
    [
        ({"fifth": (2.8, 0.9, 0.9)}, "A fifth of replay is not enough", [False, True, True]),
        ({"none": (2.6, 0.9, 0.9)}, "Nothing was forgotten", [True, False, True]),
        ({"fifth": (2.6, 0.9, 0.3)}, "Replay of a fifth keeps", [True, True, False]),
        ({"seeds": 1}, "These runs do not tell", [None, None, None]),
    ],
)
def test_each_part_of_the_replay_verdict_can_fail(trained, changes, headline, wanted):
    words, found = mid_training.judge(trained(**changes))
    assert words.startswith(headline)
    assert holds([found[0], found[1], found[3]]) == wanted


def test_accuracy_counts_above_that_of_one_answer_to_all(trained):
    _, found = mid_training.judge(trained(fifth=(2.6, 0.9, 0.45)))
    assert found[3].holds is False and found[3].answer.startswith("It rises by 0.160 +- ")


def test_the_report_of_stages_names_what_was_measured(trained, tmp_path):
    runs = trained()
    words = mid_training.write(runs, fabricate.about(), tmp_path / "report.html")
    assert "mid: 20% replay" in words and " accuracy " in words
    assert "constant accuracy" not in words  # alike in all stages
    assert (tmp_path / "stages.png").stat().st_size > 10_000
    assert "What each stage gained and forgot" in (tmp_path / "report.html").read_text()


@pytest.fixture
def ramps(tmp_path):
    def make(seeds=3, **by_arm):
        names = {"small": batch_ramp.SMALL, "early": batch_ramp.EARLY, "late": batch_ramp.LATE,
                 "large": batch_ramp.LARGE}  # fmt: skip
        steps = {"small": 480, "early": 210, "late": 390, "large": 120}
        return [
            made(tmp_path, names[arm], seed, {"": bpb + abs(lr - 0.015) * 20}, lr=lr,
                 steps=steps[arm])
            for arm, bpb in by_arm.items()
            for lr in (0.0075, 0.015, 0.03)
            for seed in range(seeds)
        ]  # fmt: skip

    return make


def test_a_ramp_that_costs_nothing_saves_its_steps(ramps):
    headline, found = batch_ramp.judge(ramps(small=3.0, early=3.2, late=3.0, large=3.4))
    assert headline == "Large late is as good as small with 19% fewer steps."
    assert [one.holds for one in found] == [True, True, False, False, True]


def test_where_every_larger_batch_is_worse_none_is_named(ramps):
    headline, _ = batch_ramp.judge(ramps(small=3.0, early=3.3, late=3.2, large=3.4))
    assert headline == "No larger batch was shown to be as good as the small one."


def test_arms_of_the_ramp_read_the_same_tokens_in_fewer_steps():
    made = batch_ramp.experiment()
    configs = [made.base.edited(arm.edits) for arm in made.arms]
    assert len({sum(stage.tokens for stage in one.stages) for one in configs}) == 1
    assert [one.train.num_steps for one in configs] == [480, 210, 390, 120]
    # Micro-batches are of one size.
    sizes = {
        stage.config.data.batch_size // stage.config.execution.accumulation_steps
        for one in configs
        for stage in one.in_stages()
    }
    assert sizes == {4}


@pytest.mark.parametrize(
    ("average", "wanted"), [(3.0, [True, True]), (3.2, [False, True]), (3.5, [False, False])]
)
def test_an_average_is_set_against_a_decay_and_against_what_it_is_of(tmp_path, average, wanted):
    runs = [
        made(tmp_path, arm, seed, {"": bpb + 0.01 * seed}, lr=0,
             heldout_bpb_average=average + 0.01 * seed)
        for arm, bpb in ((weight_average.DECAYED, 3.0), (weight_average.CONSTANT, 3.3))
        for seed in range(3)
    ]  # fmt: skip
    _, found = weight_average.judge(runs)
    assert holds(found) == wanted
    assert holds(weight_average.judge(runs[:1])[1]) == [None, None]


def test_the_gpu_sizes_ask_the_same_questions():
    both = (made.experiment().stages for made in (mid_training, mid_training_h100))
    for one, other in zip(*both, strict=True):
        assert one.config.arms == other.config.arms
        assert one.base.data.weights == other.base.data.weights
        assert other.base.model == presets.small()
    small, large = staged_pretraining.experiment(), staged_pretraining_h100.experiment()
    shares = [
        [stage.tokens / sum(one.tokens for one in cfg.stages) for stage in cfg.stages]
        for made in (small, large)
        for cfg in (made.base.edited(arm.edits) for arm in made.arms)
    ]
    assert shares[:3] == shares[3:]
