"""Small corpora for the data tests."""

import json
import pathlib

from kanana_jax.config import DataConfig

SMALL = DataConfig(seq_len=16, batch_size=4, heldout_fraction=0.1)


def write_jsonl(path: pathlib.Path, texts: list[str]) -> pathlib.Path:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


def documents(count: int, offset: int = 0) -> list[str]:
    """Distinct documents of 10 to 60 bytes, some with characters of several bytes."""
    return [
        f"document {offset + i} " + "ab \u00e9\ud55c"[: i % 5] * (1 + i % 9) for i in range(count)
    ]
