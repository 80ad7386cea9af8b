"""Models made from models: what is grown or cut, as `kanana_jax.convert` names it."""

import re
from dataclasses import dataclass
from typing import Annotated, Literal

from kanana_jax.config import fields
from kanana_jax.config.fields import ConfigError, shown
from kanana_jax.config.ranges import Count, Range


def _change(text: str, name: str) -> str:
    """The constraint of WHAT=N."""
    if not re.fullmatch("[a-z_]+=[0-9]{1,9}", text):
        raise ConfigError(
            f"{name} must be a name, = and a number, as in stack=2; got {shown(text)}"
        )
    return text


@dataclass(frozen=True, kw_only=True)
class SurgeryConfig:
    """A growth or cuts, in order; docs/surgery.md has the names.

    Cuts choose what to keep by what the model does with the first `length` tokens of `num_samples`
    documents.
    """

    grow: tuple[Annotated[str, _change], ...] = ()
    prune: tuple[Annotated[str, _change], ...] = ()
    # Of copied experts, against the deviation of the leaf.
    noise: Annotated[float, Range(0.0, 1e3, "more drowns what was copied")] = 0.0
    num_samples: Count = 512
    length: Count = 2048
    expert_score: Literal["reap", "frequency", "random"] = "reap"  # of num_experts=N

    def __post_init__(self):
        fields.check(self, "surgery")
        if bool(self.grow) == bool(self.prune):
            raise ConfigError(
                "surgery must have grow or prune, one of the two; got "
                f"grow={shown(self.grow)} and prune={shown(self.prune)}"
            )
        if self.noise and not self.grow:
            raise ConfigError(f"surgery.noise is of what grows, got {self.noise:g} with prune")

    @property
    def changes(self) -> list[tuple[str, int]]:
        """(name, number) of each."""
        pairs = (text.split("=") for text in self.grow or self.prune)
        return [(name, int(number)) for name, number in pairs]
