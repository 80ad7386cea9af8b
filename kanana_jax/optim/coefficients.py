"""Coefficients of odd quintics whose composition sends singular values to 1.

    p(x) = a x + b x^3 + c x^5,        p_T(... p_2(p_1(x))) ~ 1  for x in [lower, 1]

A `PolarSchedule` holds one row (a, b, c) per step, exactly as applied: step count and table length
are the same thing. Where a source multiplies inputs by a safety factor, the rows contain it.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

Row = tuple[float, float, float]

# The paper's own value: it makes the first row's slope exactly that of its published list.
_CUSHION = 0.02407327424182761

# arXiv:2505.16932, Alg. 1 and App. G, lower 1e-3, before the safety factor.
_POLAR_EXPRESS: tuple[Row, ...] = (
    (8.28721201814563, -23.595886519098837, 17.300387312530933),
    (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
    (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
    (3.3184196573706015, -2.488488024314874, 0.51004894012372),
    (2.300652019954817, -1.6689039845747493, 0.4188073119525673),
    (1.891301407787398, -1.2679958271945868, 0.37680408948524835),
    (1.8750014808534479, -1.2500016453999487, 0.3750001645474248),
    (1.875, -1.25, 0.375),
)
# The quintic with p(1) = 1 and two vanishing derivatives there: what the rows converge to.
_LIMIT: Row = (1.875, -1.25, 0.375)


@dataclass(frozen=True, kw_only=True)
class PolarSchedule:
    """Rows (a, b, c), one per step, and where they come from."""

    name: str
    rows: tuple[Row, ...]
    source: str
    precondition: Literal["frobenius", "aol"] = "frobenius"

    def __post_init__(self):
        if not self.rows or any(len(row) != 3 for row in self.rows):
            raise ValueError(
                f"PolarSchedule {self.name!r} needs at least one row (a, b, c), got {self.rows}."
            )

    @property
    def steps(self) -> int:
        return len(self.rows)

    def first(self, steps: int) -> "PolarSchedule":
        """Return the schedule of the first `steps` rows."""
        if not 1 <= steps <= len(self.rows):
            raise ValueError(
                f"PolarSchedule {self.name!r} has {len(self.rows)} rows, so steps must lie in "
                f"[1, {len(self.rows)}]; got {steps}."
            )
        return PolarSchedule(
            name=self.name,
            rows=self.rows[:steps],
            source=self.source,
            precondition=self.precondition,
        )


def newton_schulz(steps: int = 5) -> PolarSchedule:
    """Return Jordan's quintic repeated; it does not converge (singular values 0.5 to 1.2)."""
    _check_steps(steps)
    return PolarSchedule(
        name=f"newton_schulz_{steps}",
        rows=((3.4445, -4.7750, 2.0315),) * steps,
        source="github.com/KellerJordan/Muon",
    )


def polar_express(
    steps: int = 5, lower: float = 1e-3, safety: float = 1.01, cushion: float = _CUSHION
) -> PolarSchedule:
    """Return the greedy minimax quintics for singular values in [lower, 1] (arXiv:2505.16932).

    Every row but those in limit form acts on x / safety, which absorbs rounding above 1. `cushion`
    keeps the fitted interval's lower end at or above cushion * upper end.
    """
    _check_steps(steps)
    if not 0.0 < lower < 1.0 or safety < 1.0 or not 0.0 <= cushion < 1.0:
        raise ValueError(
            "polar_express needs 0 < lower < 1, safety >= 1 and 0 <= cushion < 1; got "
            f"lower={lower}, safety={safety}, cushion={cushion}."
        )
    is_published = lower == 1e-3 and cushion == _CUSHION
    if is_published:
        rows = (_POLAR_EXPRESS + (_LIMIT,) * steps)[:steps]
    else:
        rows = minimax_rows(steps, lower, cushion)
    return PolarSchedule(
        name=f"polar_express_{steps}",
        rows=tuple(row if row == _LIMIT else _on_scaled_input(row, safety) for row in rows),
        source="arXiv:2505.16932, Alg. 1, App. G",
    )


def minimax_rows(steps: int, lower: float, cushion: float = _CUSHION) -> tuple[Row, ...]:
    """Compute Polar Express rows without safety factor.

    Each row is the best approximation of 1 on [max(low, cushion * high), high], rescaled to be
    centred on 1 over [low, high]; its image is the next interval.
    """
    low, high, rows = lower, 1.0, []
    for _ in range(steps):
        if low / high > 1.0 - 5e-6:
            # So narrow an interval that float64 cannot tell the best quintic from its limit.
            rows.append(_LIMIT)
            continue
        row = _best_quintic(max(low, cushion * high), high)
        centre = (_apply(row, low) + _apply(row, high)) / 2.0
        row = tuple(value / centre for value in row)
        rows.append(row)
        low = _apply(row, low)
        high = 2.0 - low
    return tuple(rows)


def _best_quintic(low: float, high: float) -> Row:
    """Return the odd quintic whose error from 1 on [low, high] equioscillates (Remez exchange)."""
    inner = np.array([0.75 * low + 0.25 * high, 0.25 * low + 0.75 * high])
    for _ in range(100):
        nodes = np.array([low, *inner, high])
        system = np.column_stack([nodes, nodes**3, nodes**5, [1.0, -1.0, 1.0, -1.0]])
        a, b, c, _ = np.linalg.solve(system, np.ones(4))
        # Turning points: p'(x) = a + 3 b x^2 + 5 c x^4 = 0.
        previous, inner = inner, np.sqrt(np.sort(np.roots([5.0 * c, 3.0 * b, a]).real))
        if np.max(np.abs(inner - previous)) < 1e-15:
            break
    return float(a), float(b), float(c)


def _apply(row: Row, x: float) -> float:
    return row[0] * x + row[1] * x**3 + row[2] * x**5


def _on_scaled_input(row: Row, safety: float) -> Row:
    return row[0] / safety, row[1] / safety**3, row[2] / safety**5


def _check_steps(steps: int):
    if steps < 1:
        raise ValueError(f"a polar schedule needs at least one step, got steps={steps}.")


POLAR_EXPRESS_5 = polar_express(5)
POLAR_EXPRESS_6 = polar_express(6)
POLAR_EXPRESS_8 = polar_express(8)
