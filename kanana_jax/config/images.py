"""Tasks on images that are drawn while a model trains on them."""

from dataclasses import dataclass
from typing import Annotated, Literal

from kanana_jax.config import fields
from kanana_jax.config.fields import ConfigError
from kanana_jax.config.ranges import Count, CountOrZero, Range, Seed, SourceWeight

Question = Literal["read", "list", "sum", "filter", "compare", "audit"]


@dataclass(frozen=True, kw_only=True)
class ImageTasksConfig:
    """Which questions are asked about which images, and how they are answered.

    direct    the answer alone
    think     steps, then the answer
    check     an answer with steps, some of them wrong; the image again, steps and the answer

    The mode stands in the system message. The weights say how often each is drawn.
    """

    questions: tuple[Question, ...] = ("read", "list", "sum", "filter", "compare", "audit")
    languages: tuple[Literal["en", "ko"], ...] = ("en", "ko")
    # Rows of numbers in an image.
    rows: tuple[Annotated[int, Range(3, 6, "what a page has room for")], ...] = (3, 4, 5, 6)
    direct: SourceWeight = 1.0
    think: SourceWeight = 1.0
    check: SourceWeight = 0.5
    slips: Annotated[float, Range(0.0, 1.0, "a share")] = 0.5  # of first answers that are wrong
    rationale: Literal["own", "en", "ko"] = "own"  # the language of steps; own: the question's
    num_workers: CountOrZero = 0  # processes that draw images; 0: this one does
    num_measured: Count = 32  # held-out tasks of each question and mode
    max_tokens: Count = 160  # of an answer that is measured
    num_rows: Count = 32  # answers drawn at a time
    seed: Seed = 0  # of the held-out tasks

    def __post_init__(self):
        fields.check(self, "images")
        for name in ("questions", "languages", "rows"):
            if not getattr(self, name):
                raise ConfigError(f"images.{name} must name one or more, got none")
        if not any(self.modes.values()):
            raise ConfigError("images must have a mode with a weight, got 0 for all")

    @property
    def modes(self) -> dict[str, float]:
        return {"direct": self.direct, "think": self.think, "check": self.check}
