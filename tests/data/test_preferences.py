"""Pairs: two segments of one row, answers trained, prompts on one side; and what is refused."""

import dataclasses
import re

import pytest
from records import (
    BOS,
    EOS,
    SMALL,
    assert_equal_batches,
    conversations,
    message,
    pairs,
    segments,
    write,
)

from kanana_jax.data import DataError, chat, preferences
from kanana_jax.data.chat import Origin, Piece


@pytest.fixture
def opened(tmp_path):
    """Opens sources given as lists of records; each becomes a .jsonl file."""

    def build(*sources, report=lambda line: None, fmt=None, **settings):
        paths = tuple(write(tmp_path / f"{i}.jsonl", one) for i, one in enumerate(sources))
        cfg = dataclasses.replace(SMALL, paths=paths, **settings)
        return preferences.read(cfg, tmp_path / "cache", report, fmt).open(), cfg

    return build


def expected(record) -> list[tuple[list[int], list[int]]]:
    """Tokens of the two segments of a pair in bytes, and the places of those that count."""
    found = []
    for name in ("chosen", "rejected"):
        tokens = [BOS]
        prompt = record["prompt"]
        for one in [message("user", prompt)] if isinstance(prompt, str) else prompt:
            if one["role"] == "assistant":
                tokens += [*b"assistant: ", *one["content"].encode(), EOS]
            else:
                tokens += f"{one['role']}: {one['content']}\n".encode()
        tokens += b"assistant: "
        answer = [*record[name].encode(), EOS]
        found.append((tokens + answer, [*range(len(tokens), len(tokens) + len(answer))]))
    return found


def pairs_of(batch) -> list[list[list]]:
    """The pairs of each row, by the numbers of their segments."""
    rows = segments(batch)
    assert all(len(row) % 2 == 0 for row in rows)
    return [[row[2 * k : 2 * k + 2] for k in range(len(row) // 2)] for row in rows]


def stream(found, cfg, count) -> list[list]:
    seen, number = [], 0
    while len(seen) < count:
        seen += [pair for row in pairs_of(found.train_batch(cfg, number)) for pair in row]
        number += 1
    return seen[:count]


def held_out(found, cfg) -> list[list]:
    batches = found.heldout_batches(cfg, 10**6)
    return [pair for batch in batches for row in pairs_of(batch) for pair in row]


def test_an_epoch_holds_each_pair_of_its_side_once_the_chosen_answer_first(opened):
    found, cfg = opened(pairs(100))
    held = held_out(found, cfg)
    wanted = [expected(record) for record in pairs(100)]
    trained = sorted(pair for pair in wanted if pair not in held)
    assert all(pair in wanted for pair in held) and len(trained) == 100 - len(held) < 100
    seen = stream(found, cfg, 2 * len(trained))
    first, second = seen[: len(trained)], seen[len(trained) :]
    assert sorted(first) == sorted(second) == trained and first != second
    rows = [len(row) for number in range(9) for row in pairs_of(found.train_batch(cfg, number))]
    assert max(rows) > 1


def test_answers_in_the_prompt_are_closed_and_not_trained(opened):
    prompt = [
        message("system", "Be."),
        message("user", "Hi"),
        message("assistant", "Yes?"),
        message("user", "Go"),
    ]
    record = {"prompt": prompt, "chosen": "N\u00f6", "rejected": "a"}
    found, cfg = opened([record, *pairs(9)])
    seen = stream(found, cfg, 20) + held_out(found, cfg)
    (pair,) = {str(pair): pair for pair in seen if pair == expected(record)}.values()
    (tokens, counted), _ = pair
    assert tokens.count(EOS) == 2 and [tokens[p] for p in counted] == [*"N\u00f6".encode(), EOS]


def test_target_bytes_are_those_of_the_answers(opened):
    found, cfg = opened(pairs(60), heldout_fraction=0.3)
    held = held_out(found, cfg)
    said = [
        len((record["chosen"] + record["rejected"]).encode())
        for record in pairs(60)
        if expected(record) in held
    ]
    num_bytes = sum(batch.target_bytes.sum() for batch in found.heldout_batches(cfg, 1000))
    assert len(said) > 5 and num_bytes == sum(said)


def test_all_pairs_of_a_prompt_are_on_one_side(opened):
    """A prompt given as text is the same as one given as a message."""
    records = [
        {
            "prompt": prompt if turn % 2 else [message("user", prompt)],
            "chosen": f"Yes {turn}",
            "rejected": "No",
        }
        for i in range(40)
        for prompt in [f"Ask {i}?"]
        for turn in range(4)
    ]
    found, cfg = opened(records, heldout_fraction=0.3)
    asked = [bytes(pair[0][0][1:-1]).partition(b"?")[0] for pair in held_out(found, cfg)]
    counts = {one: asked.count(one) for one in asked}
    assert 2 < len(counts) < 38 and set(counts.values()) == {4}


def test_pairs_of_one_prompt_are_too_few(opened):
    records = [{"prompt": "Hi", "chosen": f"{i}", "rejected": "No"} for i in range(9)]
    with pytest.raises(DataError, match="expected at least two different prompts, one to train"):
        opened(records)


def test_a_batch_depends_on_seed_number_and_rows_alone(opened):
    found, cfg = opened(pairs(100), heldout_fraction=0.3)
    whole = {number: found.train_batch(cfg, number) for number in (0, 1, 40)}
    held = found.heldout_batches(cfg, 9)
    again, _ = opened(pairs(100), heldout_fraction=0.3)
    for number, wanted in reversed(whole.items()):
        assert_equal_batches(again.train_batch(cfg, number), wanted)
        part = again.train_batch(cfg, number, [1, 3])
        assert_equal_batches(part, wanted.map(lambda column: column[[1, 3]]))
    other = dataclasses.replace(cfg, seed=1)
    assert (found.train_batch(other, 0).tokens != whole[0].tokens).any()
    for one, two in zip(found.heldout_batches(other, 9), held, strict=True):
        assert_equal_batches(one, two)


def test_reading_writes_nothing_and_opening_keeps_the_tokens(tmp_path):
    cfg = dataclasses.replace(SMALL, paths=(write(tmp_path / "a.jsonl", pairs(60)),))
    text = preferences.read(cfg, tmp_path / "cache")
    assert not (tmp_path / "cache").exists()
    first = text.open()
    (file,) = (tmp_path / "cache").glob("pairs-*.npz")
    wrote = file.stat().st_mtime_ns
    again = preferences.read(cfg, tmp_path / "cache")
    assert again.digest == text.digest and again.open().fingerprint == first.fingerprint
    assert file.stat().st_mtime_ns == wrote
    assert "pairs to train on" in first.describe()


GOOD = {"prompt": "Hi", "chosen": "Yes", "rejected": "No"}
BAD = {
    "no object": ("a", "expected a JSON object per line, got a string"),
    "conversation": (conversations(1)[0], "expected the key 'prompt', got 'id', 'messages'"),
    "no answer": ({"prompt": "a", "chosen": "b"}, "expected the key 'rejected', got 'prompt', "),
    "prompt": (GOOD | {"prompt": 5}, "expected a string or a list of messages in 'prompt', got a"),
    "no prompt": (GOOD | {"prompt": []}, "expected a list of messages in 'prompt', got none"),
    "answered": (
        GOOD | {"prompt": [message("user", "a"), message("assistant", "b")]},
        "expected in 'prompt' a system message or none, then user and assistant in turn, results "
        "of tools behind calls, the user or tool last, got 'user', 'assistant'",
    ),
    "role": (GOOD | {"prompt": [message("tool", "a")]}, "the user or tool last, got 'tool'"),
    "messages": (
        GOOD | {"chosen": [message("assistant", "a")]},
        "expected text or a message of the assistant in 'chosen', got an array",
    ),
    "blank": (
        GOOD | {"rejected": " "},
        "expected text or a message of the assistant in 'rejected', got n",
    ),
    "nul": (GOOD | {"rejected": "a\0"}, "expected text, got a NUL character"),
    "same": (GOOD | {"rejected": "Yes"}, "expected two different answers, got the same in"),
    "long": (GOOD | {"chosen": "a" * 150}, "expected at most data.seq_len = 192 tokens to predict"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_record_is_named_by_file_and_line_or_left_out_and_counted(opened, tmp_path, name):
    record, reason = BAD[name]
    with pytest.raises(DataError, match=re.escape(f"{tmp_path}/0.jsonl, line 21: ")) as caught:
        opened([*pairs(20), record])
    assert reason in str(caught.value)
    clean, cfg = opened(pairs(20))
    told = []
    found, _ = opened([record, *pairs(20)], report=told.append, skip_bad_lines=True)
    assert found.num_skipped == 1 and found.fingerprint == clean.fingerprint
    (line,) = told
    assert f"1 line(s) left out, the first: {tmp_path}/0.jsonl, line 1: " in line
    assert_equal_batches(found.train_batch(cfg, 3), clean.train_batch(cfg, 3))


def test_both_answers_must_fit_into_one_row(opened):
    # BOS, "user: Hi\n", "assistant: ", the answer, EOS, twice; neither BOS is predicted.
    around = len("user: Hi\nassistant: ") + 1
    chosen = SMALL.seq_len - 2 * around - 1
    fits = GOOD | {"chosen": "a" * chosen, "rejected": "b"}
    found, cfg = opened([fits, *pairs(9)])
    assert expected(fits) in stream(found, cfg, 20) + held_out(found, cfg)
    with pytest.raises(
        DataError, match=r"line 1: expected at most data\.seq_len = 192 .* got 193;"
    ):
        opened([fits | {"rejected": "bb"}, *pairs(9)])


def test_a_format_that_looks_at_the_answer_before_the_prompt_is_refused(opened):
    def counting(messages, tools, add_generation_prompt=False):
        count = Piece(f"{len(messages)} messages\n", Origin.TEMPLATE)
        return [count, *chat.PLAIN.render(messages, tools, add_generation_prompt)]

    fmt = dataclasses.replace(chat.PLAIN, render=counting)
    with pytest.raises(DataError, match="expected the format to write an answer behind"):
        opened(pairs(9), fmt=fmt)


def test_rows_of_pairs_are_what_the_objective_reads(opened):
    """Segments 2k - 1 and 2k of a row are a pair, each with targets; no row splits a pair."""
    found, cfg = opened(pairs(100))
    batch = found.train_batch(cfg, 0)
    highest = batch.segment_ids.max(axis=1)
    assert (highest % 2 == 0).all() and (highest > 0).all()
    for row, last in enumerate(highest):
        for number in range(1, last + 1):
            assert batch.loss_mask[row][batch.segment_ids[row] == number].sum() > 0
