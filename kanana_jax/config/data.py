"""What to train on."""

import dataclasses
from dataclasses import dataclass
from typing import Annotated, Literal, Self

from kanana_jax.config import fields
from kanana_jax.config.fields import ConfigError
from kanana_jax.config.paths import Location
from kanana_jax.config.ranges import Count, CountOrZero, Range, Seed, SourceWeight, expect_int32


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """What to train on. With no paths: the sources and documentation of the running Python."""

    # Files, globs, URLs or python:packages; each entry is one source of the mixture.
    paths: tuple[Annotated[str, Location(schemes=None)], ...] = ()
    # One per path, 0: held-out text only; empty: in proportion to tokens.
    weights: tuple[SourceWeight, ...] = ()
    text_field: str = "text"  # the key or column of records; a dot leads into one: "message.text"
    skip_bad_lines: bool = False  # leave out records that cannot be used, and count them
    # "bytes", "bpe" (trained on the corpus), or a tokenizer.json
    tokenizer: Annotated[str, Location(schemes=None)] = "bytes"
    bpe_vocab_size: Annotated[int, Range(258, 2**24, "256 bytes and two special tokens")] = 8192
    seq_len: Count = 256
    batch_size: Count = 8  # sequences per optimizer step, over all devices and micro-batches
    image_patches: CountOrZero = 0  # room in a row for patches of images; 0: rows have none
    sounds: CountOrZero = 0  # room in a row for sounds; 0: rows have none
    sound_frames: Count = 400  # room for the frames of one sound, 100 a second
    # How conversations become text: "plain", "hermes", or a chat template: a .jinja file or a
    # folder that has one.
    chat_format: Annotated[str, Location(schemes=None)] = "plain"
    # Reasoning of which turns is written: all, those after the user's last message, or none.
    chat_reasoning: Literal["all", "last", "none"] = "all"
    # Share of documents kept for evaluation.
    heldout_fraction: Annotated[float, Range(1e-9, 1.0, "some on both sides", "[)")] = 0.02
    # Stop reading a source after this many bytes of text; 0: read all.
    max_bytes: Annotated[int, Range(0, 2**63 - 1, "bytes of a file")] = 0
    seed: Seed = 0
    # Token stores and tokenizers; empty: <workdir>/cache.
    cache_dir: Annotated[str, Location(may_be_empty=True)] = ""

    def with_seed(self, seed: int) -> Self:
        return dataclasses.replace(self, seed=seed)

    def __post_init__(self):
        fields.check(self, "data")
        expect_int32("data.batch_size x seq_len", self.batch_size, self.seq_len)
        expect_int32("data.batch_size x image_patches", self.batch_size, self.image_patches)
        expect_int32(
            "data.batch_size x sounds x sound_frames",
            *(self.batch_size, self.sounds, self.sound_frames),
        )
        if self.image_patches and self.sounds:
            raise ConfigError(
                "data.image_patches and data.sounds: rows have images or sounds, got "
                f"{self.image_patches} and {self.sounds}; set one to 0"
            )
        if self.weights and len(self.weights) != len(self.paths):
            raise ConfigError(
                f"data.weights needs one weight per path: got {len(self.weights)} weights "
                f"for {len(self.paths)} paths"
            )
        if self.weights and not any(self.weights):
            raise ConfigError("data.weights must draw from some source, got weights of 0")
