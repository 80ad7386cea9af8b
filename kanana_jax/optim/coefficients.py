"""Coefficients of odd quintics whose composition sends singular values to 1.

    p(x) = a x + b x^3 + c x^5,        p_T(... p_2(p_1(x))) ~ 1  for x in [lower, 1]

A `PolarSchedule` holds one row (a, b, c) per step, exactly as applied: step count and table length
are the same thing. Where a source multiplies inputs by a safety factor, the rows contain it.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

Row = tuple[float, float, float]
Precondition = Literal["frobenius", "aol"]

# The paper's own value: with it the first row's slope equals the published one exactly.
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
# github.com/KellerJordan/modded-nanogpt and github.com/microsoft/dion: Polar Express with 2 %
# safety folded into all rows, cushion 2, for inputs divided by 1.02 times their Frobenius norm.
_MODDED: tuple[Row, ...] = (
    (8.156554524902461, -22.48329292557795, 15.878769915207462),
    (4.042929935166739, -2.808917465908714, 0.5000178451051316),
    (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
    (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
    (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
)
# arXiv:2506.10935.
_CANS: tuple[Row, ...] = (
    (8.4703, -25.1081, 18.6293),
    (4.1828, -3.1087, 0.5806),
    (3.9619, -2.9541, 0.5630),
    (3.2866, -2.4647, 0.5074),
    (2.2737, -1.6447, 0.4162),
)
# arXiv:2512.04632.
_TURBO_MUON: tuple[Row, ...] = (
    (4.0098, -7.0585, 2.4635),
    (3.4585, -5.5479, 2.5959),
    (2.7573, -3.2939, 1.4254),
    (2.7215, -3.0494, 1.3169),
)
_JORDAN: Row = (3.4445, -4.7750, 2.0315)
# The quintic with p(1) = 1 and two vanishing derivatives there: what the rows converge to.
_LIMIT: Row = (1.875, -1.25, 0.375)


@dataclass(frozen=True, kw_only=True)
class PolarSchedule:
    """Rows (a, b, c), one per step, and where they come from."""

    name: str
    rows: tuple[Row, ...]
    source: str
    precondition: Precondition = "frobenius"

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
        rows=(_JORDAN,) * steps,
        source="github.com/KellerJordan/Muon",
    )


def polar_express(
    steps: int = 5,
    lower: float = 1e-3,
    safety: float = 1.01,
    cushion: float = _CUSHION,
    precondition: Precondition = "frobenius",
) -> PolarSchedule:
    """Return the greedy minimax quintics for singular values in [lower, 1] (arXiv:2505.16932).

    Every row but those in limit form acts on x / safety, which absorbs rounding above 1. `cushion`
    keeps the fitted interval's lower end at or above cushion * upper end. AOL preconditioning
    raises small singular values severalfold, so lower=1e-2 and one step fewer are enough there.
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
        precondition=precondition,
    )


def modded_nanogpt() -> PolarSchedule:
    """Return the five-step list shared by modded-nanogpt and dion."""
    return PolarSchedule(
        name="modded_nanogpt",
        rows=(_on_scaled_input(_MODDED[0], 1.02), *_MODDED[1:]),
        source="github.com/KellerJordan/modded-nanogpt, github.com/microsoft/dion",
    )


def cans(safety: float = 1.0) -> PolarSchedule:
    """Return the five-step list of Chebyshev-type polynomials (arXiv:2506.10935).

    As published it leaves no room above 1: rounding in bfloat16 drives single singular values to 2
    and beyond. safety=1.01 fixes that: every row then acts on x / safety.
    """
    return PolarSchedule(
        name="cans",
        rows=tuple(_on_scaled_input(row, safety) for row in _CANS),
        source="arXiv:2506.10935",
    )


def deepseek_v4() -> PolarSchedule:
    """Return eight steps of Jordan's quintic and two that settle at 1 (arXiv:2606.19348)."""
    return PolarSchedule(
        name="deepseek_v4",
        rows=(_JORDAN,) * 8 + ((2.0, -1.5, 0.5),) * 2,
        source="arXiv:2606.19348",
    )


def turbo_muon() -> PolarSchedule:
    """Return four steps for matrices rescaled by AOL preconditioning (arXiv:2512.04632).

    The first row acts on x / 1.2 here: as published, the four send singular values above 0.88 to
    -1, and AOL leaves them anywhere up to 1 (0.96 for an 8 x 512 gaussian, 1 for a single row).
    """
    return PolarSchedule(
        name="turbo_muon",
        rows=(_on_scaled_input(_TURBO_MUON[0], 1.2), *_TURBO_MUON[1:]),
        source="arXiv:2512.04632",
        precondition="aol",
    )


def minimax_rows(steps: int, lower: float, cushion: float = _CUSHION) -> tuple[Row, ...]:
    """Compute Polar Express rows without safety factor.

    Each row is the best approximation of 1 on [max(low, cushion * high), high], rescaled to be
    centred on 1 over [low, high]; its image is the next interval.
    """
    low, high, rows = lower, 1.0, []
    for _ in range(steps):
        if low / high > 1.0 - 5e-6:
            # The interval is so narrow that float64 cannot tell the best quintic from its limit.
            rows.append(_LIMIT)
            continue
        row = _best_quintic(max(low, cushion * high), high)
        centre = (_apply(row, low) + _apply(row, high)) / 2.0
        row = (row[0] / centre, row[1] / centre, row[2] / centre)
        rows.append(row)
        low = _apply(row, low)
        high = 2.0 - low
    return tuple(rows)


def _best_quintic(low: float, high: float) -> Row:
    """Return the odd quintic whose error from 1 on [low, high] equioscillates (Remez exchange)."""
    a = b = c = 0.0
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
