"""Conversations: what is trained, how rows are packed, and what is refused by file and line."""

import dataclasses
import json
import re

import numpy as np
import pytest
from records import BOS, EOS, SMALL, assert_equal_batches, message, segments, stream, write
from records import conversations as some

from kanana_jax.data import DataError, chat, conversations, tokenizer, whole_documents
from kanana_jax.data.chat import Origin, Piece

MESSAGES = [message("user", "Hi"), message("assistant", "Yes")]


@pytest.fixture
def opened(tmp_path):
    """Opens sources given as lists of records; each becomes a .jsonl file."""

    def build(*sources, report=lambda line: None, fmt=None, **settings):
        paths = tuple(write(tmp_path / f"{i}.jsonl", one) for i, one in enumerate(sources))
        cfg = dataclasses.replace(SMALL, paths=paths, **settings)
        return conversations.read(cfg, tmp_path / "cache", report, fmt).open(), cfg

    return build


def rendering(render) -> chat.Format:
    return dataclasses.replace(chat.PLAIN, render=render)


def expected(record) -> tuple[list[int], list[int]]:
    """The tokens of a conversation in bytes, and the places of those that count."""
    tokens, counted = [BOS], []
    for one in record["messages"]:
        content = one["content"].encode()
        if one["role"] == "assistant":
            tokens += b"assistant: "
            counted += range(len(tokens), len(tokens) + len(content) + 1)
            tokens += [*content, EOS]
        else:
            tokens += one["role"].encode() + b": " + content + b"\n"
    return tokens, counted


def text_of(tokens: list[int]) -> str:
    return bytes(token for token in tokens if token < 256).decode()


def held_out(found, cfg) -> list[tuple[list[int], list[int]]]:
    batches = found.heldout_batches(cfg, 10**6)
    return [one for batch in batches for row in segments(batch) for one in row]


def error_of(opened, *records, **settings) -> str:
    with pytest.raises(DataError) as caught:
        opened([*some(20), *records], **settings)
    return str(caught.value)


def test_only_what_the_assistant_says_and_its_end_are_trained(opened):
    text = [message("system", "Be."), message("user", "assistant: no"), message("assistant", "Yes")]
    text += [message("user", "?"), message("assistant", "N\u00f6")]
    records = [{"messages": text}, *some(40)]
    found, cfg = opened(records)
    seen = stream(found, cfg, len(records)) + held_out(found, cfg)
    wanted = [expected(record) for record in records]
    assert wanted[0] in seen and all(one in wanted for one in seen)
    tokens, counted = wanted[0]
    shown = bytes(tokens[place] if tokens[place] < 256 else ord("$") for place in counted)
    assert shown == "Yes$N\u00f6$".encode()


def test_target_bytes_are_those_of_what_the_assistant_says(opened):
    found, cfg = opened(some(60), heldout_fraction=0.3)
    said = {
        tuple(expected(record)[0]): sum(
            len(one["content"].encode()) for one in record["messages"] if one["role"] == "assistant"
        )
        for record in some(60)
    }
    num_bytes = sum(batch.target_bytes.sum() for batch in found.heldout_batches(cfg, 1000))
    assert num_bytes == sum(said[tuple(tokens)] for tokens, _ in held_out(found, cfg))


def test_batch_has_the_declared_shapes_and_types(opened):
    found, cfg = opened(some(60))
    for batch in (found.train_batch(cfg, 0), *found.heldout_batches(cfg, 9)):
        assert {column.shape for column in batch[:6]} == {(cfg.batch_size, cfg.seq_len)}
        dtypes = [column.dtype.name for column in batch[:6]]
        assert dtypes == ["int32"] * 4 + ["float32"] * 2


def test_an_epoch_holds_each_conversation_of_its_side_once(opened):
    found, cfg = opened(some(100))
    held = held_out(found, cfg)
    trained = sorted(one for one in map(expected, some(100)) if one not in held)
    assert len(trained) == 100 - len(held) < 100
    seen = stream(found, cfg, 3 * len(trained))
    epochs = [seen[begin : begin + len(trained)] for begin in range(0, len(seen), len(trained))]
    for epoch in epochs:
        assert sorted(epoch) == trained
    assert epochs[0] != epochs[1] != epochs[2], "each epoch has an order of its own"


def test_rows_are_filled_by_first_fit(opened):
    found, cfg = opened(some(200))
    batches = [found.train_batch(cfg, number) for number in range(10)]
    rows = [row for batch in batches for row in segments(batch)]
    assert {len(row) for row in rows} > {1, 2}
    # One conversation after another would leave a quarter of a row empty.
    assert np.mean([batch.segment_ids > 0 for batch in batches]) > 0.85


def test_a_batch_depends_on_seed_and_number_alone(opened):
    found, cfg = opened(some(100), some(60, 1000))
    numbers = [0, 1, 2, 30, 31, 200]
    first = {number: found.train_batch(cfg, number) for number in numbers}
    assert (first[0].tokens != first[1].tokens).any()
    again, _ = opened(some(100), some(60, 1000))
    for number in reversed(numbers):
        assert_equal_batches(again.train_batch(cfg, number), first[number])


def test_seed_changes_the_training_batches_and_not_the_heldout_ones(opened):
    found, cfg = opened(some(100), heldout_fraction=0.3)
    other = dataclasses.replace(cfg, seed=1)
    one, two = (found.train_batch(c, 0).tokens for c in (cfg, other))
    assert (one != two).any()
    batches = [found.heldout_batches(c, 3) for c in (cfg, other)]
    assert len(batches[0]) > 1
    for a, b in zip(*batches, strict=True):
        assert_equal_batches(a, b)


@pytest.mark.parametrize("rows", [[0, 1], [3], [1, 2, 3]])
def test_rows_of_a_batch_are_those_of_the_whole_one_and_no_other_is_made(rows, opened, monkeypatch):
    found, cfg = opened(some(100), heldout_fraction=0.3)
    whole = [found.train_batch(cfg, number) for number in (0, 1, 70)]
    held = found.heldout_batches(cfg, 9)
    made, make_row = [], whole_documents.make_row
    monkeypatch.setattr(
        whole_documents, "make_row", lambda *args: made.append(args) or make_row(*args)
    )
    for number, wanted in zip((0, 1, 70), whole, strict=True):
        mine = found.train_batch(cfg, number, rows)
        assert_equal_batches(mine, wanted.map(lambda column: column[rows]))
    assert len(made) == 3 * len(rows)
    for mine, wanted in zip(found.heldout_batches(cfg, 9, rows), held, strict=True):
        assert_equal_batches(mine, wanted.map(lambda column: column[rows]))


def test_heldout_batches_hold_each_conversation_once_and_pad_the_rest(opened):
    found, cfg = opened(some(100), heldout_fraction=0.3, batch_size=5)
    batches = found.heldout_batches(cfg, 1000)
    held = held_out(found, cfg)
    assert len(held) == found.examples.is_heldout_N.sum() == len({str(one) for one in held})
    is_empty = [not row for batch in batches for row in segments(batch)]
    assert is_empty == sorted(is_empty) and 0 < sum(is_empty) < cfg.batch_size
    for got, want in zip(found.heldout_batches(cfg, 2), batches[:2], strict=True):
        assert_equal_batches(got, want)


def test_the_side_is_decided_by_the_messages_alone(opened):
    found, cfg = opened(some(200))
    before = held_out(found, cfg)
    mixed = [{**record, "id": "x"} for record in reversed([*some(200), *some(200, 1000)])]
    found, cfg = opened(mixed)
    after = held_out(found, cfg)
    of_both = [one for one in map(expected, some(200)) if one in after]
    assert len(before) > 5 and sorted(of_both) == sorted(before)


@pytest.mark.parametrize("fraction", [1e-9, 0.999999])
def test_two_conversations_are_one_for_each_side(opened, fraction):
    found, cfg = opened(some(2), heldout_fraction=fraction)
    (held,) = held_out(found, cfg)
    (trained,) = {str(one) for one in stream(found, cfg, 5)}
    assert sorted((str(held), trained)) == sorted(str(expected(one)) for one in some(2))


def test_one_conversation_is_too_few_however_often_it_is_there(opened):
    with pytest.raises(DataError, match="expected at least two different conversations, one to"):
        opened(some(1) * 3)


def with_turns(*messages):
    return {"messages": list(messages)}


USER, ANSWER = MESSAGES
BAD = {
    "no object": (5, "expected a JSON object per line, got a number"),
    "no messages": ({"text": "a"}, "expected the key 'messages', got 'text'"),
    "null": ({"messages": None}, "expected a list of messages in 'messages', got null"),
    "text": ({"messages": "a"}, "expected a list of messages in 'messages', got a string"),
    "no turn": (with_turns(), "expected a list of messages in 'messages', got none"),
    "turn": (with_turns(USER, 5), "message 2 of 'messages': expected an object, got a number"),
    "role": (
        with_turns(USER, message("tool", "a")),
        "then user and assistant in turn, results of tools behind calls, the assistant last, got",
    ),
    "no role": (with_turns({"content": "a"}), "message 1 of 'messages': expected a role of"),
    "content": (
        with_turns(USER, message("assistant", ["a"])),
        "message 2 of 'messages': expected a string in 'content', got an array",
    ),
    "no content": (with_turns({"role": "user"}), "expected a string in 'content', got null"),
    "nul": (with_turns(USER, message("assistant", "a\0")), "expected text, got a NUL character"),
    "half": (with_turns(USER, message("assistant", "\ud800")), "half of a surrogate pair"),
    "blank": (
        with_turns(USER, message("assistant", " \n")),
        "message 2 of 'messages': expected text from the assistant, got none",
    ),
    "weight": (with_turns(USER, {**ANSWER, "weight": 0}), "got also 'weight'"),
    "only system": (with_turns(message("system", "a")), "the assistant last, got 'system'"),
    "only user": (with_turns(USER), "behind calls, the assistant last, got 'user'"),
    "user last": (with_turns(USER, ANSWER, USER), "the assistant last, got 'user', 'assistant', "),
    "assistant first": (with_turns(ANSWER), "then user and assistant in turn"),
    "twice": (with_turns(USER, USER, ANSWER), "then user and assistant in turn"),
    "system later": (with_turns(USER, message("system", "a"), ANSWER), "then user and assistant"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_record_is_named_by_file_and_line_or_left_out_and_counted(opened, tmp_path, name):
    record, reason = BAD[name]
    line = error_of(opened, record)
    assert line.startswith(f"{tmp_path}/0.jsonl, line 21: ") and reason in line
    clean, cfg = opened(some(20))
    told = []
    found, _ = opened([record, *some(20), record], report=told.append, skip_bad_lines=True)
    assert found.num_skipped == 2 and found.fingerprint == clean.fingerprint
    assert len(told) == 1 and told[0].startswith(f"{tmp_path}/0.jsonl: 2 line(s) left out, the ")
    assert f"/0.jsonl, line 1: {line.partition('line 21: ')[2]}" in told[0]
    assert_equal_batches(found.train_batch(cfg, 3), clean.train_batch(cfg, 3))


@pytest.mark.parametrize("bad", [b"{", b"\xff\n", b'{"messages": 1e', b"[" * 10**5 + b"\n"])
def test_a_broken_line_is_named_too(tmp_path, bad):
    path = tmp_path / "a.jsonl"
    write(path, some(20))
    path.write_bytes(path.read_bytes() + b"\n" + bad)
    cfg = dataclasses.replace(SMALL, paths=(str(path),))
    with pytest.raises(DataError, match=re.escape(f"{path}, line 22: expected ")):
        conversations.read(cfg, tmp_path / "cache")
    cfg = dataclasses.replace(cfg, skip_bad_lines=True)
    assert conversations.read(cfg, tmp_path / "cache").open().num_skipped == 1


def test_a_conversation_longer_than_a_row_is_named_with_its_length(opened, tmp_path):
    # BOS, "user: Hi\n", "assistant: ", what it says, EOS: all but the first are predicted.
    most = SMALL.seq_len - len("user: Hi\nassistant: ") - 1
    fits, long = (with_turns(USER, message("assistant", "a" * n)) for n in (most, most + 1))
    found, cfg = opened([*some(20), fits], heldout_fraction=1e-9)
    assert max(len(tokens) for tokens, _ in stream(found, cfg, 20)) == SMALL.seq_len + 1
    message_ = error_of(opened, fits, long)
    assert message_.startswith(f"{tmp_path}/0.jsonl, line 22: expected at most data.seq_len = 192 ")
    assert "to predict, got 193;" in message_
    for _ in range(2):  # the second from the cache
        told = []
        less, _ = opened([*some(20), fits, long], report=told.append, skip_bad_lines=True)
        assert less.num_skipped == 1 and "1 line(s) left out, the first: " + message_ in told[0]
    clean, _ = opened([*some(20), fits])
    assert less.fingerprint == clean.fingerprint
    assert_equal_batches(less.train_batch(cfg, 7), clean.train_batch(cfg, 7))


def test_no_side_may_lose_all_its_conversations(opened):
    found, cfg = opened(some(9), heldout_fraction=1e-9)
    (held,) = held_out(found, cfg)
    record = next(one for one in some(9) if expected(one) == held)
    shortest = min(some(9), key=lambda one: len(expected(one)[0]))
    seq_len = len(held[0]) - 2
    assert len(expected(shortest)[0]) < len(held[0]), "else none is left to train on"
    with pytest.raises(DataError, match=r"to train on and some held out, got \d and 0; "):
        opened([record, *some(9)], heldout_fraction=1e-9, seq_len=seq_len, skip_bad_lines=True)


@pytest.mark.parametrize("content", [b"", b"\n \n"])
@pytest.mark.parametrize("skip", [False, True])
def test_an_empty_file_is_refused(tmp_path, content, skip):
    write(tmp_path / "a.jsonl", some(20))
    (tmp_path / "b.jsonl").write_bytes(content)
    cfg = dataclasses.replace(SMALL, paths=(str(tmp_path / "*.jsonl"),), skip_bad_lines=skip)
    with pytest.raises(DataError, match=re.escape(f"{tmp_path}/b.jsonl: expected a JSON object")):
        conversations.read(cfg, tmp_path / "cache")


def test_nothing_but_bad_lines_is_an_error_that_says_why(opened):
    with pytest.raises(DataError, match=r"expected conversations, got none; 2 line\(s\) left out"):
        opened([5, 6], skip_bad_lines=True)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"paths": ()}, "data.paths: expected .jsonl files of conversations, got none"),
        ({"paths": ("a.txt",)}, "expected a file ending in .jsonl, .ndjson"),
        ({"paths": ("none.jsonl",)}, "'none.jsonl' does not exist; check the path"),
        ({"text_field": "messages"}, "data.text_field: conversations have keys of their own"),
        ({"tokenizer": "none.json"}, 'data.tokenizer: expected "bytes", "bpe" or the path'),
    ],
)
def test_settings_that_name_no_conversations_are_refused(tmp_path, monkeypatch, settings, reason):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "a.jsonl", some(20))
    (tmp_path / "a.txt").write_text("a")
    cfg = dataclasses.replace(SMALL, **{"paths": ("a.jsonl",), **settings})
    with pytest.raises(DataError, match=re.escape(reason)):
        conversations.read(cfg, tmp_path / "cache")


def test_render_writes_the_text_and_says_what_is_trained(opened):
    def short(messages, tools, add_generation_prompt=False):
        return [
            Piece(
                {"user": "<", "assistant": ">", "system": "!"}[one["role"]] + one["content"],
                Origin.MODEL if number == len(messages) else Origin.USER,
                is_closed=number == len(messages),
            )
            for number, one in enumerate(messages, start=1)
        ]

    found, cfg = opened([{"messages": [*MESSAGES, *MESSAGES]}, *some(9)], fmt=rendering(short))
    seen = stream(found, cfg, 20) + held_out(found, cfg)
    text = b"<Hi>Yes<Hi"
    assert ([BOS, *text, *b">Yes", EOS], [*range(11, 16)]) in seen
    plain, _ = opened([{"messages": [*MESSAGES, *MESSAGES]}, *some(9)])
    assert plain.fingerprint != found.fingerprint


def test_pieces_are_tokenized_apart(opened, tmp_path):
    made = tokenizer.train_bpe([b"Why"] * 9, 260)
    (tmp_path / "tokenizer.json").write_text(made.json)

    def cut(messages, tools, add_generation_prompt=False):
        said = Piece(messages[-1]["content"], Origin.MODEL, is_closed=True)
        return [Piece("Wh", Origin.TEMPLATE), Piece("y", Origin.USER), said]

    fmt = rendering(cut)
    found, cfg = opened(some(9), fmt=fmt, tokenizer=str(tmp_path / "tokenizer.json"))
    assert len(made.encode("Why")) == 1, "the cut must go through a token"
    for tokens, counted in stream(found, cfg, 8):
        apart = [*made.encode("Wh").tolist(), *made.encode("y").tolist()]
        assert tokens[1 : counted[0]] == apart


def test_a_conversation_that_is_there_twice_is_kept_once(opened):
    once, _ = opened(some(30), some(20, 1000))
    twice, _ = opened([*some(30), *some(9)], [*some(20, 1000), *some(30)])
    assert twice.fingerprint == once.fingerprint and twice.num_skipped == 0


@pytest.mark.parametrize("text", ["", "a"])
def test_an_example_without_trained_tokens_is_refused(opened, text):
    def nothing(messages, tools, add_generation_prompt=False):
        return [Piece("a", Origin.USER), Piece(text, Origin.USER if text else Origin.MODEL)]

    with pytest.raises(DataError, match="line 1: expected the chat format to say what the assist"):
        opened(some(9), fmt=rendering(nothing))


def test_bpe_is_trained_on_the_train_side_once_and_kept(opened, monkeypatch):
    settings = {"tokenizer": "bpe", "bpe_vocab_size": 300, "seq_len": 256}
    records = [{"messages": [USER, message("assistant", "<|eos|> is text")]}, *some(60)]
    trained_on, train_bpe = [], tokenizer.train_bpe

    def spy(texts, size):
        trained_on.extend(texts)
        return train_bpe(trained_on, size)

    monkeypatch.setattr(tokenizer, "train_bpe", spy)
    found, cfg = opened(records, **settings)
    assert 258 < found.vocab_size == found.tokenizer.vocab_size <= 300
    decoded = [found.tokenizer.decode(tokens) for tokens, _ in held_out(found, cfg)]
    asked = [re.findall(r"Ask \d+\?", text)[0] for text in decoded if "Ask" in text]
    assert asked and not any(one.encode() in b"".join(trained_on) for one in asked)
    for tokens, counted in stream(found, cfg, 61) + held_out(found, cfg):
        ends = [place for place, token in enumerate(tokens) if token == found.tokenizer.eos_id]
        text = found.tokenizer.decode(tokens)
        assert tokens[0] == found.tokenizer.bos_id and set(ends) <= set(counted)
        assert len(ends) == text.count("assistant: ")
    monkeypatch.setattr(tokenizer, "train_bpe", None)
    again, _ = opened(records, **settings)
    assert again.fingerprint == found.fingerprint


def test_a_published_tokenizer_is_read_from_its_file(opened, tmp_path):
    made = tokenizer.train_bpe([b"user: Ask assistant: Say"], 270)
    (tmp_path / "tokenizer.json").write_text(made.json)
    found, cfg = opened(some(60), tokenizer=str(tmp_path / "tokenizer.json"))
    assert found.tokenizer.digest == made.digest
    wanted = {
        "".join(piece.text for piece in pieces): "".join(
            piece.text for piece in pieces if piece.origin is Origin.MODEL
        )
        for record in some(60)
        for pieces in [chat.PLAIN.render(record["messages"], ())]
    }
    for tokens, counted in stream(found, cfg, 50):
        assert (tokens[0], tokens[-1]) == (made.bos_id, made.eos_id)
        said = made.decode([tokens[place] for place in counted])
        assert wanted[made.decode(tokens)] == said


def test_reading_writes_nothing_and_opening_keeps_the_tokens(tmp_path):
    cfg = dataclasses.replace(SMALL, paths=(write(tmp_path / "a.jsonl", some(60)),))
    cache, told = tmp_path / "cache", []
    text = conversations.read(cfg, cache, told.append)
    assert not cache.exists()
    first = text.open()
    (file,) = cache.glob("*.npz")
    wrote = file.stat().st_mtime_ns
    again = conversations.read(cfg, cache, told.append)
    assert again.digest == text.digest and again.open().fingerprint == first.fingerprint
    assert file.stat().st_mtime_ns == wrote and not told
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    for damaged in (bytes(content), content[:50], b""):
        file.write_bytes(damaged)
        found = conversations.read(cfg, cache, told.append).open()
        assert "is damaged" in told[-1] and told[-1].endswith("it is made anew from the text")
        assert found.fingerprint == first.fingerprint
    assert len(told) == 3
    conversations.read(cfg, cache, told.append).open()
    assert len(told) == 3, "the damaged file was replaced"
    assert not list(cache.glob(".*"))


def test_a_cache_that_cannot_be_written_is_named(tmp_path):
    cfg = dataclasses.replace(SMALL, paths=(write(tmp_path / "a.jsonl", some(60)),))
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(DataError, match=r"data\.cache_dir: cannot write .*; free space or set"):
        conversations.read(cfg, tmp_path / "cache").open()


def test_digest_tells_texts_sides_and_tokenizers_apart(tmp_path):
    records = some(60)
    changed = json.loads(json.dumps(records))
    changed[7]["messages"][-1]["content"] += "."
    paths = [write(tmp_path / f"{i}.jsonl", one) for i, one in enumerate((records, changed))]
    cfg = dataclasses.replace(SMALL, paths=(paths[0],))
    others = [
        dataclasses.replace(cfg, paths=(paths[1],)),
        dataclasses.replace(cfg, heldout_fraction=0.5),
        dataclasses.replace(cfg, tokenizer="bpe", bpe_vocab_size=258),
    ]
    texts = [conversations.read(one, tmp_path / "cache") for one in (cfg, *others)]
    assert len({text.digest for text in texts}) == 4
    assert len({text.open().fingerprint for text in texts}) == 4
    same = dataclasses.replace(cfg, seed=3, batch_size=2, seq_len=200)
    assert conversations.read(same, tmp_path / "cache").digest == texts[0].digest


@pytest.mark.parametrize("weights", [(3.0, 1.0), (0.2, 0.8)])
def test_weights_mix_rows_of_the_sources(opened, weights):
    sources = ["a", "b"]
    records = [
        [with_turns(message("user", f"{i}"), message("assistant", name * 20)) for i in range(60)]
        for name in sources
    ]
    found, cfg = opened(*records, weights=weights)
    rows = np.concatenate([found.train_batch(cfg, number).targets for number in range(50)])
    masks = np.concatenate([found.train_batch(cfg, number).loss_mask for number in range(50)])
    of_a, of_b = (((rows == ord(name)) & (masks == 1)).any(axis=1) for name in sources)
    assert (of_a ^ of_b).all(), "a row is of one source"
    np.testing.assert_allclose(of_a.mean(), weights[0] / sum(weights), atol=1 / 200)


def test_without_weights_rows_hold_conversations_of_all_sources(opened):
    found, cfg = opened(some(60), some(60, 1000))
    rows = [row for number in range(5) for row in segments(found.train_batch(cfg, number))]
    asked = [[re.findall(r"Ask (\d+)", text_of(tokens))[0] for tokens, _ in row] for row in rows]
    sides = [{int(number) >= 1000 for number in row} for row in asked]
    assert {True, False} in sides
    assert found.describe().startswith("2 source(s), ")
    assert f"{(~found.examples.is_heldout_N).sum()} conversations to train on" in found.describe()


def test_max_bytes_ends_reading_before_the_conversation_that_exceeds_it(opened):
    found, _ = opened(some(60))
    size = sum(len(expected(one)[0]) for one in some(10))
    marks = sum(expected(one)[0].count(mark) for one in some(10) for mark in (BOS, EOS))
    less, _ = opened(some(60), max_bytes=size - marks)
    want, _ = opened(some(10))
    assert less.fingerprint == want.fingerprint
    even_less, _ = opened(some(60), max_bytes=size - marks - 1)
    want, _ = opened(some(9))
    assert even_less.fingerprint == want.fingerprint != found.fingerprint


def test_rows_shorter_than_what_was_read_are_refused(opened):
    found, cfg = opened(some(60))
    shorter = dataclasses.replace(cfg, seq_len=20)
    for batches in (
        lambda: found.train_batch(shorter, 0),
        lambda: found.heldout_batches(shorter, 1),
    ):
        with pytest.raises(DataError, match=r"data\.seq_len: expected at least \d+, .* got 20"):
            batches()
