"""Claims about the verdict of distill_small: data on which it flips."""

import pytest
from test_staged_experiments import made

from experiments import distill_small


def _runs(folder, **bpb):
    """Finished students of three seeds whose held-out loss is that of their arm."""
    losses = {arm.name: 3.0 for arm in distill_small.ARMS} | {
        getattr(distill_small, name): value for name, value in bpb.items()
    }
    return [
        made(folder, f"{distill_small.STUDENT}: {arm}", seed, {"": loss}, lr=0)
        for arm, loss in losses.items()
        for seed in range(3)
    ]


@pytest.mark.parametrize(
    ("whole", "top_k", "wanted"),
    [
        (2.5, 2.5, [True, False, True, False]),
        (3.0, 3.0, [False, True, True, True]),
        (3.5, 3.0, [False, True, True, True]),
    ],
)
def test_claims_follow_the_losses(tmp_path, whole, top_k, wanted):
    headline, found = distill_small.judge(_runs(tmp_path, WHOLE=whole, TOP_K=top_k))
    assert [one.holds for one in found] == wanted
    more = "teaches more than as many" if wanted[0] else "teaches no more than"
    assert more in headline
