"""Claims about norms: data on which each of them flips."""

import fabricate
import pytest

from experiments import rmsnorm, rmsnorm_adamw
from experiments.rmsnorm import verdict
from kanana_jax.model import surgery

RATES = (0.0075, 0.015, 0.03)


def fabricated(folder, seeds=3, folded=0.0, dropped=0.2, **losses):
    runs = []
    for arm in (one.name for one in rmsnorm.ARMS):
        for lr in RATES:
            bpb = losses.get(arm, 2.7) + 0.1 * (lr != 0.015)
            extra = {f"gain_max_{name}": 1.5 for name in verdict.CLASSES}
            extra |= {"heldout_folded": bpb + folded, "heldout_dropped": bpb + dropped}
            for seed in range(seeds):
                runs.append(
                    fabricate.run(
                        folder, arm=arm, lr=lr, seed=seed, bpb=bpb, spread=0.001, extra=extra
                    )
                )
    return runs


def claim(runs, words):
    (found,) = [one for one in verdict.judge(runs)[1] if words in one.question]
    return found


@pytest.mark.parametrize(("loss", "holds"), [(2.6, True), (2.7, False), (2.8, False)])
def test_decay_is_set_against_none(tmp_path, loss, holds):
    runs = fabricated(tmp_path, **{verdict.DECAYED: loss})
    assert claim(runs, "decay of all gains better").holds is holds
    assert claim(runs, "decay of the gains of inputs").holds is False
    expected = "lowers the loss here" if holds else "lowers no loss here"
    assert expected in verdict.judge(runs)[0]


@pytest.mark.parametrize(
    ("arm", "words"),
    [
        (verdict.SCALAR, "number for each entry better"),
        (verdict.NONE, "gain better than none"),
    ],
)
def test_other_gains_are_set_against_plain_ones(tmp_path, arm, words):
    assert claim(fabricated(tmp_path, **{arm: 2.8}), words).holds is True


def test_a_fold_that_moves_the_loss_is_seen(tmp_path):
    assert claim(fabricated(tmp_path / "same", seeds=1), "taken into the matrices").holds is True
    moved = fabricated(tmp_path / "moved", seeds=1, folded=-1e-3)
    assert claim(moved, "taken into the matrices").holds is False
    blind = fabricated(tmp_path / "blind", seeds=1, dropped=0.0)
    assert claim(blind, "left out move it").holds is False


def test_gains_stand_beside_the_losses(tmp_path):
    details = claim(fabricated(tmp_path, seeds=1), "gains of kv latent norms").details
    assert len(details) == len(rmsnorm.ARMS) and details[0].endswith("largest 1.500")


def test_all_five_classes_are_in_the_model():
    assert set(verdict.CLASSES) == set(surgery.gains.CLASSES)
    assert rmsnorm.experiment().base.model.q_lora_rank


def test_adamw_has_the_same_arms_at_its_own_rates():
    made = rmsnorm_adamw.experiment()
    assert made.arms == rmsnorm.ARMS and made.base.optimizer.name == "adamw"
    assert max(made.axes[0].values) < min(rmsnorm.experiment().axes[0].values)
