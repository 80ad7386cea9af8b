"""Claims about stabilisers: ranges of rates that are known, and data on which verdicts flip."""

import fabricate
import pytest

from experiments import stabilisers
from experiments.stabilisers import picture, verdict
from kanana_jax.report import canvas

RATES = stabilisers.RATES[1:]  # enough to tell a range
WITHOUT = (2.8, 2.7, 2.75, 3.5, None)  # by rate; None: diverged
LONGER = (2.8, 2.7, 2.72, 2.75, 3.5)


def fabricated(folder, seeds=3, without=WITHOUT, **others):
    runs = []
    for arm, losses in {verdict.NONE: without, **others}.items():
        for rate, bpb in zip(RATES, losses, strict=True):
            for seed in range(seeds):
                given = {"diverged_step": 20} if bpb is None else {"bpb": bpb + 0.001 * seed}
                runs.append(
                    fabricate.run(folder, arm=arm, lr=rate, seed=seed, spread=0.001, **given)
                )
    return runs


def test_ranges_end_where_the_loss_leaves_the_best(tmp_path):
    (found,) = verdict.ranges(fabricated(tmp_path, seeds=1)).values()
    assert not found.is_open
    assert found.highest == pytest.approx(0.045 * 3 ** ((2.8 - 2.75) / (3.5 - 2.75)))


def test_a_diverged_neighbour_ends_a_range_at_the_last_rate(tmp_path):
    losses = (2.8, 2.7, 2.75, None, None)
    (found,) = verdict.ranges(fabricated(tmp_path, seeds=1, without=losses)).values()
    assert found == (0.045, False)


@pytest.mark.parametrize(
    ("losses", "holds"), [(LONGER, True), (WITHOUT, None), ((2.7, 2.9, 3.5, None, None), False)]
)
def test_a_longer_range_is_told(tmp_path, losses, holds):
    headline, (one, *_) = verdict.judge(fabricated(tmp_path, **{"QK-Clip": losses}))
    assert one.holds is holds
    assert ("QK-Clip" in headline) is (holds is True)


def test_a_range_without_end_judges_nothing(tmp_path):
    flat = (2.7,) * 5
    _, (one, *_) = verdict.judge(fabricated(tmp_path, without=flat, **{"QK-norm": flat}))
    assert one.holds is None and "0.405 or more against 0.405 or more" in one.details[0]


def test_losses_are_drawn_against_rates(tmp_path):
    runs = fabricated(tmp_path, seeds=1, **{"QK-norm": LONGER})
    (panel,) = picture.LossOfRate().draw(runs, canvas.look(runs)).figure.axes
    assert [len(line.get_xdata()) for line in panel.lines] == [4, 5]


def test_all_arms_have_one_kind_of_attention():
    made = stabilisers.experiment()
    configs = [made.base.edited(arm.edits) for arm in made.arms]
    assert {one.model.kv_lora_rank for one in configs} == {None}
    assert [one.model.qk_norm for one in configs] == [False, False, False, True]
    assert [one.optimizer.split for one in configs] == ["parts", "parts", "heads", "parts"]
