"""Claims about the verdicts of prune_distill and cascade: data on which each flips."""

import dataclasses
import tempfile
from pathlib import Path

import fabricate
import numpy as np
import pytest
from test_staged_experiments import holds, made

from experiments import cascade, distill_small, prune_distill
from experiments.prune_distill import report, verdict
from kanana_jax.model import presets

_BASE, _CUT = 2.0, 4.0


@pytest.fixture
def pruned(tmp_path):
    """Students by the share that they win back; others by their losses."""

    def make(shares=None, *, seeds=3, cut=_CUT, **losses):
        shares = {arm.name: 0.8 for arm in distill_small.ARMS} | (shares or {})
        of_arm = {verdict.BASE: _BASE, verdict.CUT: cut, verdict.NEW: 3.5, verdict.SCRATCH: 3.0}
        of_arm |= {verdict.cut_of(name): 2.5 for name in verdict.CUTS}
        of_arm |= losses
        of_arm |= {
            f"{verdict.STUDENT}: {name}": _CUT - share * (_CUT - _BASE)
            for name, share in shares.items()
        }
        shape = dataclasses.asdict(presets.tiny(vocab_size=258))
        found, folder = [], Path(tempfile.mkdtemp(dir=tmp_path))
        for arm, loss in of_arm.items():
            for seed in range(seeds):
                one = made(folder, arm, seed, {"": loss + 0.01 * seed}, lr=0)
                found.append(dataclasses.replace(one, config={"model": shape, "train": {}}))
        return found

    return make


@pytest.mark.parametrize(
    ("scratch", "holds_now", "words"),
    [(3.0, True, "Pruning and distillation beat"), (2.4, False, "Scratch with ten times"),
     (2.0, False, "Scratch with ten times")],
)  # fmt: skip
def test_a_tenth_of_the_tokens_is_set_against_scratch(pruned, scratch, holds_now, words):
    headline, found = verdict.judge(pruned(**{verdict.SCRATCH: scratch}))
    assert headline.startswith(words) and found[0].holds is holds_now


def test_what_is_left_is_set_against_a_new_model_with_the_same_teacher(pruned):
    assert verdict.judge(pruned())[1][1].holds is True
    assert verdict.judge(pruned(new=2.3))[1][1].holds is False


def test_each_teaching_is_set_against_text(pruned):
    shares = {distill_small.TEXT: 0.6, distill_small.BOTH: 0.4, distill_small.TOP_K: 0.6}
    found = verdict.judge(pruned(shares))[1]
    wanted = {distill_small.WHOLE: True, distill_small.BOTH: False, distill_small.TOP_K: False,
              distill_small.SAMPLED: True}  # fmt: skip
    assert holds(found[2:6]) == list(wanted.values())
    assert all(name in one.question for name, one in zip(wanted, found[2:6], strict=True))


def test_shares_are_of_what_the_cut_lost(pruned):
    names = [arm.name for arm in distill_small.ARMS]
    given = dict(zip(names, (0.9, 0.55, 0.45, 1.2, -0.5), strict=True))
    runs = pruned(given)
    for name, share in given.items():
        by_seed = verdict.recovered(runs, name)
        np.testing.assert_allclose(list(by_seed.values()), [share] * 3, atol=1e-9)
    found = verdict.judge(runs)[1]
    assert holds(found[6:11]) == [True, True, False, True, False]
    runs = pruned(cut=_BASE - 0.5)
    assert np.isnan(list(verdict.recovered(runs, names[0]).values())).all()
    assert holds(verdict.judge(runs)[1][6:11]) == [None] * 5


def test_reap_is_set_against_other_scores(pruned):
    found = verdict.judge(pruned(experts_frequency=2.4, experts_random=2.9))[1]
    assert holds(found[11:]) == [False, True]


def test_one_seed_decides_nothing(pruned):
    headline, found = verdict.judge(pruned(seeds=1))
    assert headline.startswith("These runs do not tell")
    assert set(holds(found)) == {None}


def test_the_report_says_what_each_cut_left_and_lost(pruned, tmp_path):
    report.write(pruned(), fabricate.about(), tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "without_kv_rank: 100.0% of the parameters left; held-out loss +0.5000 +- " in page
    assert "8 draws: 80.0%, 80.0%, 80.0% by seed." in page


def test_controls_have_the_shape_of_what_is_left_and_the_tokens_that_are_claimed():
    made = prune_distill.experiment().stages
    stages = {stage.name: stage.base for stage in made}
    (changes,) = (
        dict(stage.surgery.changes) for stage in made if stage.surgery and stage.name == verdict.CUT
    )
    left = dataclasses.replace(stages[verdict.BASE].model, **changes)
    student, new, scratch = (stages[x] for x in (verdict.STUDENT, verdict.NEW, verdict.SCRATCH))
    assert left == student.model == new.model == scratch.model
    steps = [one.train.num_steps for one in (student, new, scratch, stages[verdict.BASE])]
    assert steps == [steps[0], steps[0], 10 * steps[0], 10 * steps[0]]
    assert len({(one.data.batch_size, one.data.seq_len) for one in stages.values()}) == 1


@pytest.fixture
def steps(tmp_path):
    def make(seeds=3, **losses):
        names = (cascade.CASCADE, cascade.BY_BASE, cascade.ONCE, cascade.SCRATCH, cascade.NEW)
        of_arm = dict.fromkeys(names, 3.0) | losses
        return [
            made(tmp_path, arm, seed, {"": loss + 0.01 * seed}, lr=0)
            for arm, loss in of_arm.items()
            for seed in range(seeds)
        ]

    return make


@pytest.mark.parametrize(
    ("losses", "wanted"),
    [
        ({}, [False] * 6),
        ({"cascade": 2.5}, [True, False, True, True, False, False]),
        ({"by_base": 2.5}, [False, True, False, False, False, False]),
        ({"once": 2.5}, [False, False, False, False, True, True]),
        ({"new": 3.5}, [False, False, False, False, False, True]),
        ({"scratch": 3.5}, [False, False, False, True, True, False]),
        ({"seeds": 1}, [None] * 6),
    ],
)
def test_each_claim_about_two_steps_has_its_own_pair(steps, losses, wanted):
    assert holds(cascade.judge(steps(**losses))) == wanted


def test_one_step_and_two_have_equal_tokens():
    stages = {stage.name: stage for stage in cascade.experiment().stages}

    def num_steps(*names):
        return sum(stages[name].base.train.num_steps for name in names)

    once = num_steps(cascade.ONCE)
    assert num_steps(cascade.HALF, cascade.CASCADE) == once == num_steps(cascade.NEW)
    assert num_steps(cascade.HALF, cascade.BY_BASE) == once
    assert num_steps(cascade.SCRATCH) == num_steps(cascade.BASE) + once
    teachers = {name: dict(stages[name].uses)["distill.teacher"] for name in
                (cascade.HALF, cascade.CASCADE, cascade.BY_BASE, cascade.ONCE)}  # fmt: skip
    assert teachers == {"half": "base", "cascade": "half", "by_base": "base", "once": "base"}
