"""Records with tools and reasoning: what of them is trained, and what is refused."""

import dataclasses
import json
import re

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from chat_cases import TOOLS, chatml_tokenizer
from records import SMALL, message, segments, stream, write
from records import conversations as some

from kanana_jax.data import DataError, chat, conversations, preferences
from kanana_jax.data.chat import Origin
from kanana_jax.data.chat.format import turn_text
from kanana_jax.data.chat.messages import assistant, call

LONG = dataclasses.replace(SMALL, seq_len=1400)
ADD = call("add", {"a": 1, "b": 2})
ASK, RESULT = message("user", "1+2?"), message("tool", "3!")
MESSAGES = [
    ASK,
    assistant("", "a sum", [ADD]),
    RESULT,
    assistant("It is 3."),
    message("user", "And 2+2?"),
    assistant("4", "easy"),
]


def record(number: int = 0, messages=MESSAGES, **fields) -> dict:
    head = message("system", f"Be {number}.")
    return {"messages": [head, *messages], "tools": TOOLS, **fields}


def many(count: int = 12, **fields) -> list[dict]:
    return [record(number, **fields) for number in range(count)]


@pytest.fixture
def opened(tmp_path):
    def build(records, read=conversations.read, fmt=None, **settings):
        path = write(tmp_path / "0.jsonl", records)
        cfg = dataclasses.replace(LONG, **{"paths": (path,), **settings})
        return read(cfg, tmp_path / "cache", fmt=fmt).open(), cfg

    return build


def said(tokens, counted, used) -> str:
    """What is trained, each end of a turn as |."""
    return "".join(
        "|" if tokens[place] == used.eos_id else used.decode([tokens[place]]) for place in counted
    )


def wanted(messages, fmt=chat.PLAIN) -> str:
    return "".join(turn_text(fmt, one) + "|" for one in messages if one["role"] == "assistant")


FORMATS = ("plain", "hermes")


@pytest.mark.parametrize("name", FORMATS)
def test_trained_tokens_are_the_answers_and_their_ends_and_not_those_beside_them(opened, name):
    """Fails if the mask is shifted by one: it would begin late and go past the end."""
    found, cfg = opened(many(), chat_format=name)
    fmt = {"plain": chat.PLAIN, "hermes": chat.HERMES}[name]
    for tokens, counted in stream(found, cfg, 20):
        assert said(tokens, counted, found.tokenizer) == wanted(MESSAGES, fmt)


@pytest.mark.parametrize("name", FORMATS)
def test_what_a_tool_returns_is_never_trained(opened, name):
    found, cfg = opened(many(), chat_format=name)
    for tokens, counted in stream(found, cfg, 20):
        text = bytes(token if token < 256 else ord("|") for token in tokens)
        (place,) = [one.start() for one in re.finditer(rb"3!", text)]
        assert not {place, place + 1} & {*counted}
    is_tool_T = found.examples.origin_T == Origin.TOOL
    assert is_tool_T.sum() == 2 * 12 and not (is_tool_T & found.examples.is_target_T).any()


def test_a_format_that_drops_the_tools_is_refused(opened):
    def render(messages, tools, add_generation_prompt=False):
        return chat.PLAIN.render(messages, (), add_generation_prompt)

    fmt = dataclasses.replace(chat.PLAIN, render=render)
    with pytest.raises(DataError, match="line 1: expected the tool 'add' in the prompt, got"):
        opened(many(), fmt=fmt)
    found, cfg = opened(many())
    prompts = [bytes(t for t in tokens if t < 256) for tokens, _ in stream(found, cfg, 20)]
    assert all(b"tools: add(a,b) now() math.sqrt(x)\n" in one for one in prompts)


def test_a_template_that_ignores_tools_is_refused(opened, tmp_path):
    source = chat.HERMES.template.replace("for tool in tools", "for tool in []")
    (tmp_path / "chat_template.jinja").write_text(source)
    with pytest.raises(DataError, match="line 1: expected the tool 'add' in the prompt"):
        opened(many(), chat_format=str(tmp_path))


def test_origins_are_kept_in_the_cache(opened, tmp_path):
    first, _ = opened(many())
    again, _ = opened(many())
    assert {*first.examples.origin_T.tolist()} == {0, 1, 2, 3}
    np.testing.assert_array_equal(again.examples.origin_T, first.examples.origin_T)
    assert again.fingerprint == first.fingerprint


def test_formats_have_caches_of_their_own(opened):
    one, two = (opened(many(), chat_format=name)[0] for name in FORMATS)
    assert one.fingerprint != two.fingerprint


REASONING = {
    "all": [wanted(MESSAGES)],
    "none": ['@add {"a":1,"b":2}|It is 3.|4|'],
    "last": ['~~a sum~~@add {"a":1,"b":2}|It is 3.|', "~~easy~~4|"],
}


@pytest.mark.parametrize("how", REASONING)
def test_reasoning_is_kept_where_the_setting_says(opened, how):
    found, cfg = opened(many(), chat_reasoning=how)
    seen = stream(found, cfg, 40)
    assert {said(*one, found.tokenizer) for one in seen} == {*REASONING[how]}
    assert (found.examples.origin_T == Origin.EARLIER).any() == (how == "last")
    # All examples of a conversation are on one side.
    is_heldout_N = found.examples.is_heldout_N.reshape(-1, len(REASONING[how]))
    assert (is_heldout_N.all(axis=1) == is_heldout_N.any(axis=1)).all()


def test_what_was_said_earlier_is_there_without_its_reasoning(opened):
    found, cfg = opened(many(), chat_reasoning="last")
    texts = [bytes(t for t in tokens if t < 256).decode() for tokens, _ in stream(found, cfg, 40)]
    later = [one for one in texts if "And 2+2?" in one]
    assert later and all("a sum" not in one and "It is 3." in one for one in later)


QWEN_LIKE = (
    "{%- set ns = namespace(last=0) %}{%- for m in messages %}"
    "{%- if m.role == 'user' %}{%- set ns.last = loop.index0 %}{%- endif %}{%- endfor %}"
    "{%- for t in tools or [] %}{{- t.function.name + ' ' }}{%- endfor %}"
    "{%- for m in messages %}{{- '[' + m.role + ']' }}"
    "{%- if m.reasoning_content and loop.index0 > ns.last %}"
    "{{- '<think>' + m.reasoning_content + '</think>' }}{%- endif %}"
    "{{- m.content }}{%- for c in m.tool_calls or [] %}{{- c.function.name }}{%- endfor %}"
    "{{- '<|eos|>' }}{%- endfor %}{%- if add_generation_prompt %}{{- '[assistant]' }}{%- endif %}"
)


def test_a_template_that_drops_earlier_reasoning_is_read_turn_by_turn(opened, tmp_path):
    (tmp_path / "t.jinja").write_text(QWEN_LIKE)
    settings = {"chat_format": str(tmp_path / "t.jinja")}
    with pytest.raises(DataError, match=r"line 1: .*the same whatever follows.*chat_reasoning"):
        opened(many(), **settings)
    found, cfg = opened(many(), chat_reasoning="last", **settings)
    trained = {said(*one, found.tokenizer) for one in stream(found, cfg, 40)}
    assert trained == {"<think>a sum</think>add|It is 3.|", "<think>easy</think>4|"}


MARKED_CONTENT = "{% generation %}{{- m.content }}{% endgeneration %}"


@pytest.mark.parametrize(
    ("source", "why"),
    [
        (QWEN_LIKE.replace("<|eos|>", ";"), "a token that ends the assistant's turn"),
        (
            QWEN_LIKE.replace("{{- m.content }}", MARKED_CONTENT),
            "to mark by generation what the assistant says, up to and with the token that ends",
        ),
        ("{{ messages | length }}", "write messages the same whatever follows them"),
        ("{% if %}", "no valid jinja"),
        ("{{ raise_exception('no tools') }}", "no tools"),
    ],
)  # fmt: skip
def test_a_template_whose_answers_are_not_found_is_refused(opened, tmp_path, source, why):
    (tmp_path / "t.jinja").write_text(source)
    with pytest.raises(DataError, match=why):
        opened(many(), chat_format=str(tmp_path / "t.jinja"), chat_reasoning="none")


def test_a_folder_that_has_no_template_is_named(opened, tmp_path):
    with pytest.raises(DataError, match=r'data\.chat_format: expected "plain", "hermes", a'):
        opened(many(), chat_format=str(tmp_path))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": QWEN_LIKE}))
    found, _ = opened(many(), chat_format=str(tmp_path), chat_reasoning="last")
    assert found.format.is_foreign


def test_hermes_ends_turns_with_its_own_token_where_the_tokenizer_has_it(opened, tmp_path):
    used = chatml_tokenizer()
    (tmp_path / "tokenizer.json").write_text(used.json)
    settings = {"tokenizer": str(tmp_path / "tokenizer.json"), "chat_format": "hermes"}
    found, cfg = opened(many(), **settings)
    end = chat.end_id(chat.HERMES, used)
    assert end == used.token_id("<|im_end|>") != used.eos_id
    for tokens, counted in stream(found, cfg, 12):
        assert sum(tokens[p] == end for p in counted) == 3 and used.eos_id not in tokens


def test_arguments_and_tools_may_be_json(opened):
    as_text = json.loads(json.dumps(many()))
    for one in as_text:
        one["tools"] = json.dumps(one["tools"])
        (found,) = one["messages"][2]["tool_calls"]
        found["function"]["arguments"] = json.dumps(found["function"]["arguments"])
        found["id"], one["messages"][3]["tool_call_id"] = "x", "x"
        one["messages"][2]["content"] = None
    assert opened(as_text)[0].fingerprint == opened(many())[0].fingerprint


def test_rows_of_parquet_are_records(opened, tmp_path):
    rows = [{**one, "tools": json.dumps(one["tools"])} for one in json.loads(json.dumps(many()))]
    for row in rows:
        for one in row["messages"]:
            for made in one.get("tool_calls", ()):
                made["function"]["arguments"] = json.dumps(made["function"]["arguments"])
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    found, _ = opened([], paths=(str(tmp_path / "a.parquet"),))
    assert found.fingerprint == opened(many())[0].fingerprint
    rows[4]["messages"][0]["role"] = "x"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"a\.parquet, row 5: message 1 .* a role"):
        opened([], paths=(str(tmp_path / "a.parquet"),))


def called(arguments):
    return {"type": "function", "function": {"name": "add", "arguments": arguments}}


def with_calls(*calls):
    return record(messages=[ASK, assistant("", "", calls), RESULT, assistant("x")])


BAD = {
    "unlisted": (record(tools=[]), "expected calls of the record's tools, none, got 'add'"),
    "arguments": (with_calls(called("{")), "expected arguments as an object or as JSON"),
    "array": (with_calls(called([1])), "expected an object in 'arguments', or JSON of one"),
    "call": (with_calls({"name": "add"}), "call 1: expected {\"type\": \"function\""),
    "name": (with_calls(call("a b", {})), "expected a name of ASCII letters, digits"),
    "more results": (
        record(messages=[*MESSAGES[:3], RESULT, *MESSAGES[3:]]),
        "message 5 of 'messages': expected a result behind a call of the assistant, one for each",
    ),
    "no call": (
        record(messages=[ASK, assistant("x"), RESULT, assistant("y")]),
        "expected a result behind a call of the assistant",
    ),
    "no result": (
        record(messages=[*MESSAGES[:2], message("user", "?"), assistant("y")]),
        "expected the result of the call of 'add', got a message of 'user'",
    ),
    "order": (record(messages=[ASK, RESULT, assistant("x")]), "results of tools behind calls"),
    "silent": (record(messages=[ASK, assistant(" ")]), "expected text from the assistant"),
    "ids": (
        record(
            messages=[
                ASK,
                assistant("", "", [{**ADD, "id": "p"}]),
                {**RESULT, "tool_call_id": "q"},
                assistant("x"),
            ]
        ),
        "expected results in the order of the calls, that of 'p' next, got 'q'",
    ),
    "twice": (record(tools=TOOLS[:1] * 2), "expected tools of different names"),
    "tool": (record(tools=[{"name": "add"}]), "tool 1: expected"),
    "tools": (record(tools={"a": 1}), "expected a list of tools in 'tools'"),
    "marks": (
        record(messages=[ASK, assistant("a\n@add {}")]),
        "expected an answer that the format plain reads as it was meant",
    ),
    "torn": (record(messages=[ASK, assistant("a\n@add {1}")]), "plain cannot read an answer"),
    "thought": (record(messages=[ASK, assistant("a", "b~~c")]), "that the format plain reads as"),
    "thinking user": (
        record(messages=[{**ASK, "reasoning_content": "x"}, assistant("a")]),
        "got also 'reasoning_content'",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_a_bad_record_is_named_by_file_and_line(opened, tmp_path, name):
    bad, why = BAD[name]
    with pytest.raises(DataError, match=re.escape(f"{tmp_path}/0.jsonl, line 21: ")) as caught:
        opened([*some(20), bad])
    assert why in str(caught.value)


def test_answers_of_a_pair_may_call_tools(opened):
    prompt = [message("system", "Be."), *MESSAGES[:3]]
    records = [
        {
            "prompt": [*prompt[:-1], message("tool", f"{number}")],
            "tools": TOOLS,
            "chosen": assistant("", "more", [ADD]),
            "rejected": "3",
        }
        for number in range(9)
    ]
    found, cfg = opened(records, read=preferences.read)
    rows = segments(found.train_batch(cfg, 0))
    trained = {said(*one, found.tokenizer) for row in rows for one in row}
    assert trained == {'~~more~~@add {"a":1,"b":2}|', "3|"}
    assert (found.examples.origin_T == Origin.EARLIER).sum() == 18 * len(
        '~~a sum~~@add {"a":1,"b":2}|'
    )


def test_what_cannot_be_an_answer_is_refused(opened):
    good = {"prompt": "a", "chosen": "b", "rejected": {"role": "user", "content": "c"}}
    with pytest.raises(DataError, match="line 1: expected in 'rejected' a system message or none"):
        opened([good], read=preferences.read)
