"""Conversations and pairs for the data tests, and what a batch says of them."""

import json
import pathlib

import numpy as np

from kanana_jax.batch import Batch
from kanana_jax.config import DataConfig

SMALL = DataConfig(seq_len=192, batch_size=4, heldout_fraction=0.1)
BOS, EOS = 256, 257  # of the byte tokenizer


def write(path: pathlib.Path, records: list) -> str:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)


def message(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def conversations(count: int, offset: int = 0) -> list[dict]:
    """Distinct ones of one to three turns, some with a system message and wide characters."""
    return [
        {
            "id": i,
            "messages": [message("system", "Be \ud55c.")] * (i % 3 == 0)
            + [
                one
                for turn in range(1 + i % 3)
                for one in (
                    message("user", f"Ask {i}?"),
                    message("assistant", f"Say {i} " + "\u00e9" * (i % 7 + turn)),
                )
            ],
        }
        for i in range(offset, offset + count)
    ]


def pairs(count: int, offset: int = 0) -> list[dict]:
    return [
        {
            "prompt": f"Ask {i}?",
            "chosen": f"Yes {i}" + "\u00e9" * (i % 4),
            "rejected": "No" * (1 + i % 3),
        }
        for i in range(offset, offset + count)
    ]


def assert_equal_batches(got: Batch, want: Batch) -> None:
    for name, a, b in zip(Batch._fields, got, want, strict=True):
        np.testing.assert_array_equal(a, b, err_msg=name)


def segments(batch: Batch) -> list[list[tuple[list[int], list[int]]]]:
    """Per row and segment: its tokens with the last target, and the places of those that count.

    Checks on the way what every row must hold.
    """
    found = []
    for row in range(len(batch.tokens)):
        one = batch.map(lambda column, row=row: column[row])
        ids = one.segment_ids
        lengths = np.bincount(ids)[1:]
        # In order from 1, each in one stretch, the padding behind.
        stretches = np.repeat(np.arange(1, len(lengths) + 1), lengths)
        np.testing.assert_array_equal(ids, np.pad(stretches, (0, len(ids) - len(stretches))))
        for column in one[:6]:
            assert not column[ids == 0].any()
        of_row = []
        for number in range(1, len(lengths) + 1):
            tokens, targets, positions, _, mask, _ = (column[ids == number] for column in one[:6])
            np.testing.assert_array_equal(tokens[1:], targets[:-1])
            np.testing.assert_array_equal(positions, np.arange(len(tokens)))
            counted = (1 + np.flatnonzero(mask)).tolist()
            assert set(mask.tolist()) <= {0.0, 1.0}
            of_row.append(([*tokens.tolist(), int(targets[-1])], counted))
        found.append(of_row)
    return found


def stream(found, cfg: DataConfig, count: int) -> list[tuple[list[int], list[int]]]:
    """The first `count` segments of the training batches."""
    seen, number = [], 0
    while len(seen) < count:
        seen += [one for row in segments(found.train_batch(cfg, number)) for one in row]
        number += 1
    return seen[:count]
