"""Constraints: whatever is drawn under one is what was asked for, and can be read."""

import json
import random

import numpy as np
import pytest
import schemas

from kanana_jax.data import tokenizer
from kanana_jax.data.chat import dialects
from kanana_jax.data.chat.reading import Reader
from kanana_jax.generate import processors
from kanana_jax.generate.grammar import GrammarError, Grammars, Wanted

EOS = 257
MARKED = [dialects.HERMES, dialects.KIMI_K2, dialects.DEEPSEEK, dialects.DEEPSEEK_V3]
ARGUMENTS = {
    "type": "object",
    "properties": {"a": {"type": "integer"}, "b": {"enum": ["x", "\ud55c"]}},
    "required": ["a", "b"],
    "additionalProperties": False,
}


def tool(name, parameters=ARGUMENTS, **more):
    return {"type": "function", "function": {"name": name, "parameters": parameters, **more}}


@pytest.fixture(scope="module")
def grammars():
    return Grammars(tokenizer.byte_tokenizer(), 258, [EOS])


def drawn(make, seed=0, most=3000, wanted=()):
    """Text of random allowed tokens, or those of `wanted` where they are allowed."""
    rng, matcher, ids = np.random.default_rng(seed), make(), []
    while len(ids) < most:
        bits = np.unpackbits(matcher.allowed().view(np.uint8), bitorder="little")
        allowed = np.flatnonzero(bits)
        assert len(allowed) and allowed[-1] < 258
        liked = wanted[len(ids)] if len(ids) < len(wanted) else None
        token = liked if liked in allowed else int(rng.choice(allowed))
        if token == EOS:
            break
        ids.append(token)
        matcher.push(token)
        if matcher.is_whole:
            break
    else:
        raise AssertionError(f"no end: {bytes(i for i in ids if i < 256)[:300]}")
    return tokenizer.byte_tokenizer().decode_marked(ids)


def read(dialect, text, thinking="over"):
    reader = Reader(dialect, thinking, reads_calls=True)
    said = [reader.push(text), reader.finish()]
    content = "".join(one.content for one in said)
    return content, [call["function"] for one in said for call in one.calls]


def test_answers_fit_their_schema(grammars):
    source = random.Random(0)
    for number in range(60):
        schema = schemas.random_schema(source)
        make = grammars.constraint(Wanted(schema=schema), None, "over")
        value = json.loads(drawn(make, number))
        assert schemas.fits(value, schema), (value, schema)


@pytest.mark.parametrize("dialect", [*MARKED, dialects.PLAIN], ids=lambda one: one.name)
@pytest.mark.parametrize("is_parallel", [True, False])
def test_calls_that_must_be_made_are_made(grammars, dialect, is_parallel):
    tools = [tool("add"), tool("get.it", {"maxProperties": 0, "unheard": 5})]
    wanted = Wanted(tools=tools[:1], must_call=True, is_parallel=is_parallel)
    numbers = set()
    for seed in range(12):
        text = drawn(grammars.constraint(wanted, dialect, "over"), seed)
        content, calls = read(dialect, text)
        assert content == "" and calls
        numbers.add(len(calls))
        for call in calls:
            assert call["name"] == "add"
            assert call["arguments"].keys() == {"a", "b"}
            assert call["arguments"]["b"] in ("x", "\ud55c")
    assert (numbers == {1}) != is_parallel
    both = Wanted(tools=tools, must_call=True, is_parallel=False)
    texts = [drawn(grammars.constraint(both, dialect, "over"), seed) for seed in range(8)]
    assert {read(dialect, text)[1][0]["name"] for text in texts} == {"add", "get.it"}


@pytest.mark.parametrize("dialect", [*MARKED, dialects.PLAIN], ids=lambda one: one.name)
def test_a_strict_tool_may_be_left_alone_and_is_kept_to_where_it_is_called(grammars, dialect):
    make = grammars.constraint(Wanted(tools=[tool("add", strict=True)]), dialect, "over")
    assert read(dialect, drawn(make, wanted=[*b"Hi", EOS])) == ("Hi", [])
    opening = f"I ask.\n{dialect.opening}".encode()
    for seed in range(6):
        content, (call, *_) = read(dialect, drawn(make, seed, wanted=opening))
        assert content == "I ask."
        assert call["arguments"].keys() == {"a", "b"}


def test_content_that_fits_or_a_call_is_given_where_both_are_asked_for(grammars):
    wanted = Wanted(schema={"type": "object", "maxProperties": 0}, tools=[tool("add")])
    make = grammars.constraint(wanted, dialects.HERMES, "over")
    assert json.loads(drawn(make, wanted=b"{")) == {}
    assert read(dialects.HERMES, drawn(make, wanted=b"<"))[1]


@pytest.mark.parametrize("dialect", MARKED, ids=lambda one: one.name)
def test_reasoning_stays_free(grammars, dialect):
    wanted = Wanted(schema={"type": "object", "maxProperties": 0})
    begin, end = dialect.thought
    for thinking, opening in (("open", ""), ("possible", begin)):
        likes = f"{opening}\nWell {{}} <br>{end}\n\n".encode()
        text = drawn(grammars.constraint(wanted, dialect, thinking), wanted=likes)
        assert text.startswith(likes.decode())
        assert json.loads(text.removeprefix(likes.decode())) == {}
    allowed = grammars.constraint(wanted, dialect, "over")().allowed()
    assert np.unpackbits(allowed.view(np.uint8), bitorder="little").nonzero()[0].tolist() == [
        ord("{")
    ]


def test_marks_that_are_special_tokens_are_written_as_such():
    content = json.loads(tokenizer.train_bpe([b"functions add a b x"] * 9, 270).json)
    marks = [*dialects.KIMI_K2.marks, "<|tool_call_argument_begin|>"]
    first = max(content["model"]["vocab"].values()) + 1
    flags = dict.fromkeys(["single_word", "lstrip", "rstrip", "normalized"], False)
    for place, mark in enumerate(marks):
        content["added_tokens"].append(
            {"id": first + place, "content": mark, "special": True, **flags}
        )
    used = tokenizer.from_json(json.dumps(content), "kimi", bos="<|bos|>", eos="<|eos|>")
    own = Grammars(used, used.vocab_size + 30, [used.eos_id])
    wanted = Wanted(tools=[tool("add")], must_call=True, is_parallel=False)
    rng, matcher, ids = np.random.default_rng(0), None, []
    matcher = own.constraint(wanted, dialects.KIMI_K2, "over")()
    while not matcher.is_whole:
        allowed = matcher.allowed()
        assert len(allowed) == processors.num_words(used.vocab_size + 30)
        bits = np.unpackbits(allowed.view(np.uint8), bitorder="little")
        ids.append(int(rng.choice(np.flatnonzero(bits))))
        matcher.push(ids[-1])
    assert [used.token_id(mark) in ids for mark in dialects.KIMI_K2.marks[2:]] == [True] * 4
    assert "tool_call" not in used.decode(ids)
    content, calls = read(dialects.KIMI_K2, used.decode_marked(ids))
    assert (content, [call["name"] for call in calls]) == ("", ["add"])


def test_a_matcher_that_has_given_up_allows_the_end_alone(grammars):
    matcher = grammars.constraint(Wanted(schema={"type": "object"}), None, "over")()
    assert not matcher.has_given_up
    matcher.push(ord("x"))
    assert matcher.has_given_up and not matcher.is_whole
    bits = np.unpackbits(matcher.allowed().view(np.uint8), bitorder="little")
    assert bits.nonzero()[0].tolist() == [EOS]


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "nothing"},
        {"$ref": "http://example.com/x"},
        {"type": "string", "pattern": "(?=a)"},
        {"type": "string", "format": "unheard"},
        {"type": "integer", "minimum": 3, "maximum": 2},
        {"allOf": 5},
    ],
)
def test_a_schema_that_cannot_be_kept_to_is_refused(grammars, schema):
    with pytest.raises(GrammarError, match="the schema cannot be kept to"):
        grammars.constraint(Wanted(schema=schema), None, "over")


def test_a_schema_that_takes_long_to_compile_is_refused(grammars):
    with pytest.raises(GrammarError, match="may have 262144 characters together, got 300196"):
        grammars.constraint(Wanted(schema={"enum": ["x" * 300_000]}), None, "over")


def test_a_client_cannot_set_the_librarys_own_options(grammars):
    schema = {"x-guidance": {"lenient": True}, "type": "string", "format": "unheard"}
    with pytest.raises(GrammarError):
        grammars.constraint(Wanted(schema=schema), None, "over")


@pytest.mark.long
def test_a_thousand_random_schemas_are_kept_to(grammars):
    source = random.Random(1)
    for number in range(1000):
        schema = schemas.random_schema(source)
        make = grammars.constraint(Wanted(schema=schema), None, "over")
        value = json.loads(drawn(make, number))
        assert schemas.fits(value, schema), (value, schema)
