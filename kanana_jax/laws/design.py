"""Can these runs tell the parameters of a law apart? Asked before a fit, answered by name.

A rule that a design must meet is checked by counting. What is left is checked by the derivatives of
ln L: a direction in which they vanish is a combination of parameters that no loss depends on.
"""

from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Float

from kanana_jax.laws.errors import LawError
from kanana_jax.laws.forms import Form, Points

_STEP = 1e-4  # of the finite differences
_IDLE = 1e-9  # the derivative of ln L by a parameter that nothing depends on
_SINGULAR = 1e-7  # of the largest singular value, columns scaled to 1
_PART = 0.05  # of a vanishing direction: parameters below are not named


def check(form: Form, points: Points, states: Iterable[str] | None = None) -> None:
    """LawError names the parameters that the design leaves open, and what to run for them.

    `states` gives for every point the state of the learning rate at which it was read, such as
    "decayed": losses of two states differ by more than what is fitted.
    """
    kinds = sorted(set(states or ()))
    if len(kinds) > 1:
        raise LawError(
            f"all losses must be read at one state of the learning rate, got {', '.join(kinds)}; "
            "compare averages at a constant rate, or the ends of decays"
        )
    found = [*_few_shares(form, points), *open_parameters(form, points)]
    if found:
        raise LawError(f"this design does not tell {'; '.join(dict.fromkeys(found))}")


def _few_shares(form: Form, points: Points) -> list[str]:
    """A tau from one mixture share is only as good as the law's form between it and none."""
    names = [name for name in form.names if name.startswith("tau_")]
    if not names:
        return []
    tokens = points.tokens
    amounts = np.concatenate([tokens.sources_PS, tokens.other_P[:, None]], axis=1)
    share_PS = amounts / tokens.total_P[:, None]
    found = []
    for name, share_P in zip(names, share_PS.T, strict=True):
        shares = np.unique(np.round(share_P[share_P > 0], 3))
        if len(shares) == 1:
            found.append(f"{name} (its text has one mixture share, {shares[0]:g}; run two or more)")
    return found


def open_parameters(form: Form, points: Points) -> list[str]:
    """Parameters that take part in a direction without effect on ln L."""
    slope_PX = _slopes(form, points)
    size_X = np.linalg.norm(slope_PX, axis=0)
    is_idle_X = size_X < _IDLE
    idle = [name for name, is_idle in zip(form.names, is_idle_X, strict=True) if is_idle]
    found = [f"{name} (no loss depends on it{_hint(name)})" for name in idle]
    names = [name for name in form.names if name not in idle]
    if len(slope_PX) < len(names):
        return [*found, f"{', '.join(names)} (fewer points, {len(slope_PX)}, than parameters)"]
    slope_PX = slope_PX[:, ~is_idle_X] / size_X[~is_idle_X]
    _, sizes, directions = np.linalg.svd(slope_PX, full_matrices=False)
    vanishing = directions[sizes < _SINGULAR * sizes[0]]
    # Several directions mix; the parameters that any of them moves cannot be told apart.
    parts = [n for n, part in zip(names, np.abs(vanishing).T, strict=True) if any(part > _PART)]
    if parts:
        found.append(f"{' and '.join(_two(parts))} apart (losses depend on them together alone)")
    return found


def _slopes(form: Form, points: Points) -> Float[np.ndarray, "P X"]:
    """Derivatives at a generic law: E, A f and B g alike, theta a little off its starts."""
    theta = form.internal([np.mean(one.starts) + 0.013 for one in form.thetas])
    at_X = np.concatenate([np.zeros(3), theta])

    def log_loss(vector):
        log_fg = np.stack(form.features(form.natural(vector[3:]), points, np), axis=-1)
        centered = np.pad(log_fg - log_fg.mean(0), ((0, 0), (1, 0)))
        return np.log(np.exp(vector[:3] + centered).sum(-1))

    moves = _STEP * np.eye(len(at_X))
    return np.stack(
        [(log_loss(at_X + m) - log_loss(at_X - m)) / (2 * _STEP) for m in moves], axis=-1
    )


def _two(names: Sequence[str]) -> tuple[str, ...]:
    return (", ".join(names[:-1]), names[-1]) if len(names) > 1 else (*names,)


def _hint(name: str) -> str:
    return "; read some text more than once" if name == "lam" else ""
