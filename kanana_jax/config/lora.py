"""Low-rank adapters (arXiv:2106.09685): which matrices have them, and of which rank."""

from dataclasses import dataclass
from typing import Annotated, Literal

from kanana_jax.config import fields
from kanana_jax.config.ranges import Factor, Range

RankOrZero = Annotated[int, Range(0, 2**14, "a larger one is no low rank")]
# "rank": that of lora.rank. 0: these matrices have no adapter.
RankOfRole = RankOrZero | Literal["rank"]


@dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """W + alpha / rank A B instead of W: A and B are trained, the model they are added to is not.

    Every matrix of a layer but the router can have one; embedding, head and norms have none.
    """

    rank: RankOrZero = 0  # 0: the model itself is trained
    alpha: Factor = 16.0
    attention_rank: RankOfRole = "rank"
    dense_rank: RankOfRole = "rank"  # of MLPs in layers without experts
    experts_rank: RankOfRole = "rank"  # of every routed expert by itself
    shared_rank: RankOfRole = "rank"  # of shared experts, which are one MLP
    # Of the frozen model; norms, routers and their bias are always float32.
    base_dtype: Literal["float32", "bfloat16"] = "float32"

    def __post_init__(self):
        fields.check(self, "lora")
        chosen = [one for one in self._ranks.values() if one != "rank"]
        if not self.rank and any(chosen):
            raise fields.ConfigError(
                "lora.rank must be over 0 where a role has a rank of its own, for 0 turns adapters "
                f"off; got {max(chosen)} for one"
            )
        if self.rank and len(chosen) == len(self._ranks) and not any(chosen):
            raise fields.ConfigError(
                "a rank of lora must be over 0 for one role at least, got 0 for all; set "
                "lora.rank=0 to train the model itself"
            )

    def rank_of(self, role: str) -> int:
        """The rank of a matrix with the role "attention", "dense", "experts" or "shared"."""
        chosen = self._ranks[role]
        return chosen if isinstance(chosen, int) else self.rank

    @property
    def _ranks(self) -> dict[str, int | str]:
        roles = ("attention", "dense", "experts", "shared")
        return {role: getattr(self, f"{role}_rank") for role in roles}
