"""Ranges of numbers for annotations of settings: finite, with a reason.

width: Width        share: Annotated[float, Range(0.0, 1.0, "of the peak")]
"""

import math
from dataclasses import dataclass
from typing import Annotated, Literal

from kanana_jax.config.fields import ConfigError, shown


@dataclass(frozen=True)
class Range:
    """The finite numbers from `lower` to `upper`, and those in `also`.

    `why` is the reason for the bounds, `ends` says which of them belong to the range.
    """

    lower: float
    upper: float
    why: str
    ends: Literal["[]", "[)", "(]"] = "[]"
    also: tuple[int, ...] = ()

    def __call__(self, value: float, name: str) -> float:
        # NaN fails every comparison.
        is_above = self.lower <= value if self.ends[0] == "[" else self.lower < value
        is_below = value <= self.upper if self.ends[1] == "]" else value < self.upper
        if value in self.also or (is_above and is_below):
            return value
        raise ConfigError(f"{name} must lie in {self} ({self.why}), got {shown(value)}")

    def __str__(self) -> str:
        lower, upper = (
            f"{end:g}" if isinstance(end, float) else end for end in (self.lower, self.upper)
        )
        others = "".join(f" or be {value}" for value in self.also)
        return f"{self.ends[0]}{lower}, {upper}{self.ends[1]}{others}"


INT32_MAX, SEED_MAX = 2**31 - 1, 2**32 - 1
Count = Annotated[int, Range(1, INT32_MAX, "it is counted in int32")]
CountOrZero = Annotated[int, Range(0, INT32_MAX, "it is counted in int32")]
Width = Annotated[int, Range(1, 2**20, "no matrix has more rows or columns")]
WidthOrZero = Annotated[int, Range(0, 2**20, "no matrix has more rows or columns")]
Seed = Annotated[int, Range(0, SEED_MAX, "JAX takes 32 bits of a seed")]
Devices = Annotated[int, Range(1, 2**20, "no machine has more devices", also=(-1,))]
Rate = Annotated[float, Range(1e-30, 1e3, "less is 0 in float32, and more cannot train")]
Epsilon = Annotated[float, Range(1e-30, 1.0, "less is 0 in float32, and more drowns the rest")]
Decay = Annotated[float, Range(0.0, 0.999999, "what is nearer to 1 is 1 in a float32 average")]
LossWeight = Annotated[float, Range(0.0, 1e3, "more drowns the loss of the text")]
SourceWeight = Annotated[float, Range(0.0, 1e9, "sources are drawn by ratio")]
Share = Annotated[float, Range(0.0, 1.0, "a share")]
Factor = Annotated[float, Range(1e-6, 1e6, "float32 holds it and its products")]


def expect_int32(what: str, *numbers: int) -> None:
    """Raises ConfigError unless the product of `numbers` fits."""
    if math.prod(numbers) > INT32_MAX:
        raise ConfigError(
            f"{what} must be at most {INT32_MAX}, for it is counted in int32; got "
            f"{' x '.join(map(str, numbers))}"
        )
