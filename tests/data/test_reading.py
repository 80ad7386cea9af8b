"""Turns read while they are written: the same message whatever pieces they come in."""

import importlib
import itertools
import json
import re

import hypothesis
import pytest
from chat_cases import CALM, WILD, turns
from hypothesis import strategies as st

from kanana_jax.data import chat
from kanana_jax.data.chat import dialects, plain
from kanana_jax.data.chat.format import FormatError, turn_text
from kanana_jax.data.chat.messages import assistant, call
from kanana_jax.data.chat.reading import Reader

OWN = {"hermes": (chat.HERMES, dialects.HERMES), "plain": (chat.PLAIN, dialects.PLAIN)}
ALL = (
    dialects.HERMES,
    dialects.PLAIN,
    dialects.KIMI_K2,
    dialects.DEEPSEEK,
    dialects.DEEPSEEK_V3,
)
ADD = call("add", {"a": 1, "b": "</tool_call>}"})


def read(dialect, text, cuts=(), thinking="possible", *, reads_calls=True):
    """The message that the pieces of `text` make."""
    reader = Reader(dialect, thinking, reads_calls=reads_calls)
    bounds = sorted({0, *(cut % (len(text) + 1) for cut in cuts), len(text)})
    pieces = [text[begin:end] for begin, end in itertools.pairwise(bounds)]
    said = [*map(reader.push, pieces), reader.finish()]
    return assistant(
        "".join(one.content for one in said),
        "".join(one.reasoning for one in said),
        [one for part in said for one in part.calls],
    )


def written(dialect, name, arguments):
    """A call as the grammar of its dialect has it."""
    parts = [dialect.call[0], *dialect.before(name), json.dumps(arguments), *dialect.after]
    return "".join(part if isinstance(part, str) else "7" for part in parts)


@hypothesis.settings(deadline=None)
@hypothesis.given(turns(CALM), st.sampled_from([*OWN]), st.lists(st.integers(0, 300), max_size=8))
def test_what_a_format_writes_is_read_as_its_parser_reads_it(messages, name, cuts):
    fmt, dialect = OWN[name]
    for message in messages:
        if message["role"] == "assistant":
            text = turn_text(fmt, message)
            assert read(dialect, text, cuts) == fmt.parse(text)


MARKS = sorted({mark for one in ALL for mark in one.marks} | {"\n", "{", "}", '"', "@add {}"})


@hypothesis.settings(deadline=None)
@hypothesis.given(
    st.sampled_from(ALL),
    st.lists(st.sampled_from(MARKS) | WILD, max_size=6).map("".join),
    st.lists(st.integers(0, 300), max_size=8),
    st.sampled_from(["open", "over", "possible"]),
)
def test_pieces_of_any_text_make_one_message(dialect, text, cuts, thinking):
    whole = read(dialect, text, (), thinking)
    assert read(dialect, text, cuts, thinking) == whole
    one_by_one = read(dialect, text, range(len(text)), thinking)
    assert one_by_one == whole


@pytest.mark.parametrize("dialect", ALL, ids=lambda one: one.name)
@pytest.mark.parametrize("number", [1, 3])
def test_calls_are_read_in_every_dialect(dialect, number):
    arguments = [{"a": n, "b": ["\ud55c", None, 0.5]} for n in range(number)]
    calls = dialect.between.join(written(dialect, "add", one) for one in arguments)
    begin, end = dialect.section
    thought = "".join([dialect.thought[0], "so", dialect.thought[1]])
    text = f"{thought}I ask.\n{begin}{calls}{end}"
    for cuts in ((), range(len(text)), range(0, len(text), 7)):
        message = read(dialect, text, cuts)
        assert (message["content"], message["reasoning_content"]) == ("I ask.", "so")
        got = [one["function"] for one in message["tool_calls"]]
        assert got == [{"name": "add", "arguments": one} for one in arguments]


def test_kimi_gives_calls_their_ids():
    text = (
        "<|tool_calls_section_begin|><|tool_call_begin|>functions.get.it:12"
        "<|tool_call_argument_begin|>{}<|tool_call_end|><|tool_calls_section_end|>"
    )
    (found,) = read(dialects.KIMI_K2, text)["tool_calls"]
    assert found == call("get.it", {}) | {"id": "functions.get.it:12"}


@pytest.mark.parametrize(
    ("text", "content", "num_calls"),
    [
        ("<tool_call>\n{}\n</tool_call>", "<tool_call>\n{}\n</tool_call>", 0),
        ('a <tool_call>{"name": "f"', 'a <tool_call>{"name": "f"', 0),
        ('<tool_call>{"name": "f", "arguments": {"x": NaN}}</tool_call>', None, 0),
        ('<tool_call>{"name": "f", "arguments": {"x": "\\ud800"}}</tool_call>', None, 0),
        ('<tool_call>{"name": "f", "arguments": []}</tool_call>.', None, 0),
        ('<tool_call>{"name": "f", "arguments": {}}</tool_call> and', "and", 1),
        ("<tool_cal", "<tool_cal", 0),
        ("a\n\n", "a\n\n", 0),
    ],
)
def test_what_is_no_call_is_content(text, content, num_calls):
    message = read(dialects.HERMES, text)
    assert message["content"] == (text if content is None else content)
    assert len(message.get("tool_calls", ())) == num_calls


def test_a_call_may_spell_its_own_end():
    text = turn_text(chat.HERMES, assistant("", "", [ADD]))
    assert read(dialects.HERMES, text, range(len(text)))["tool_calls"] == [ADD]


def test_calls_are_content_where_none_are_read():
    text = turn_text(chat.HERMES, assistant("x", "y", [ADD]))
    message = read(dialects.HERMES, text, range(len(text)), reads_calls=False)
    assert message == assistant(text.partition("</think>\n\n")[2], "y")


def test_a_prompt_may_have_opened_the_reasoning():
    assert read(dialects.HERMES, "a\n</think>\n\nb", (), "open") == assistant("b", "a")
    assert read(dialects.HERMES, "<think>a", (), "over") == assistant("<think>a")
    # Cut off before its end, all of it is reasoning.
    assert read(dialects.HERMES, "a\n</thi", (), "open") == assistant("", "a\n</thi")


def test_text_is_handed_out_as_soon_as_it_is_no_mark():
    reader = Reader(dialects.HERMES, "possible", reads_calls=True)
    pieces = ["Hel", "lo <", "b> ", "\n", "x", "<tool", "_"]
    shown = [reader.push(piece).content for piece in pieces]
    assert shown == ["Hel", "lo ", "<b> ", "", "\nx", "", ""]


@pytest.mark.parametrize(
    ("source", "want"),
    [
        (chat.HERMES.template, dialects.HERMES),
        (chat.PLAIN.template, dialects.PLAIN),
        ("<|tool_calls_section_begin|>", dialects.KIMI_K2),
        (dialects.DEEPSEEK.section[0], dialects.DEEPSEEK),
        (dialects.DEEPSEEK.section[0] + "```json", dialects.DEEPSEEK_V3),
        ("<tool_call>{{ x }}", dialects.HERMES),
        ("<tool_call><function={{ x }}>", None),
        ("{{ messages }}", None),
    ],
)
def test_a_template_tells_its_dialect(source, want):
    assert dialects.of(source) is want


def test_a_line_that_is_no_call_is_refused():
    with pytest.raises(FormatError, match="expected JSON behind @f"):
        plain.call_of("@f {x}")


class _Tokens:
    """A tokenizer of bytes and of whatever looks like a mark, as `renderers` asks for one."""

    unk_token_id = None
    _MARK = re.compile("(<[|\uff5c][^|\uff5c<>]+[|\uff5c]>)")

    def __init__(self):
        self._marks = []

    def convert_tokens_to_ids(self, token):
        if token not in self._marks:
            self._marks.append(token)
        return 256 + self._marks.index(token)

    def encode(self, text, add_special_tokens=False):
        ids = []
        for part in filter(None, self._MARK.split(text)):
            is_mark = self._MARK.fullmatch(part)
            ids += [self.convert_tokens_to_ids(part)] if is_mark else part.encode()
        return ids

    def decode(self, ids):
        parts = [self._marks[i - 256].encode() if i > 255 else bytes([i]) for i in ids]
        return b"".join(parts).decode()


@pytest.mark.parity
@pytest.mark.parametrize(
    ("module", "name", "dialect"),
    [
        ("kimi_k2", "KimiK2Renderer", dialects.KIMI_K2),
        ("deepseek_v3", "DeepSeekV3Renderer", dialects.DEEPSEEK_V3),
    ],
)
def test_what_renderers_has_models_write_is_read(module, name, dialect):
    pytest.importorskip("renderers")
    used = _Tokens()
    made = getattr(importlib.import_module(f"renderers.{module}"), name)(used)
    calls = [
        {"id": f"functions.{one}:{place}", "type": "function",
         "function": {"name": one, "arguments": {"a": [place, "\ud55c\n"]}}}
        for place, one in enumerate(["add", "get.it"])
    ]  # fmt: skip
    for content in ("", "I ask."):
        answer = {"role": "assistant", "content": content, "tool_calls": calls}
        found = made.render([{"role": "user", "content": "?"}, answer])
        pairs = zip(found.token_ids, found.sampled_mask, strict=True)
        *said, _ = [token for token, is_model in pairs if is_model]
        message = read(dialect, used.decode(said))
        assert message["content"] == content
        read_calls = [one["function"] for one in message["tool_calls"]]
        assert read_calls == [one["function"] for one in calls]
        if dialect is dialects.KIMI_K2:
            assert [one["id"] for one in message["tool_calls"]] == [one["id"] for one in calls]
