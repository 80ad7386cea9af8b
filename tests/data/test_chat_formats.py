"""Formats over random conversations: who wrote which token, and that text stays what it was."""

import itertools

import hypothesis
import numpy as np
import pytest
from chat_cases import (
    CALM,
    EOS_TEXT,
    FORMATS,
    MARKS,
    TOKENIZERS,
    TOOLS,
    closed_text,
    conversations,
)
from hypothesis import strategies as st

from kanana_jax.data import chat, whole_documents
from kanana_jax.data.chat import Origin, foreign, template
from kanana_jax.data.chat.format import turn_text
from kanana_jax.data.chat.messages import assistant, call

FORMAT_NAMES, TOKENIZER_NAMES = st.sampled_from([*FORMATS]), st.sampled_from([*TOKENIZERS])
MANY_TOOLS = st.sampled_from([[], TOOLS[:1], TOOLS])
given = hypothesis.given(
    conversations(), MANY_TOOLS, FORMAT_NAMES.map(FORMATS.get), TOKENIZER_NAMES
)


def twin(fmt) -> template.Template:
    return template.Template(fmt.template, {"eos_token": EOS_TEXT})


def ends_of_turns(messages):
    """Where a conversation can be cut: results of one turn stay together."""
    for end in range(1, len(messages)):
        if messages[end]["role"] != "tool" or messages[end - 1]["role"] != "tool":
            yield end


@given
def test_the_template_writes_the_text_of_the_pieces(messages, tools, fmt, name):
    for prompts in (False, True):
        pieces = fmt.render(messages, tools, prompts)
        text = twin(fmt).render(messages, tools=tools, add_generation_prompt=prompts)
        assert text == closed_text(fmt, pieces)


@given
@pytest.mark.long
def test_tokens_of_the_model_are_those_that_the_template_marks(messages, tools, fmt, name):
    """The mask is what the template marks: one end more or one token less would be seen."""
    marked = twin(fmt).render(messages, tools=tools, add_generation_prompt=False, is_marked=True)
    wanted = [part.partition(template.END)[0] for part in marked.split(template.BEGIN)[1:]]
    used = TOKENIZERS[name]()
    ids, origins = chat.encode(fmt, used, messages, tools)
    groups = itertools.groupby(zip(ids, origins, strict=True), lambda pair: pair[1])
    said = [[one for one, _ in group] for origin, group in groups if origin is Origin.MODEL]
    end = fmt.end or EOS_TEXT
    assert [one[-1] for one in said] == [chat.end_id(fmt, used)] * len(wanted)
    assert [used.decode(one[:-1]) for one in said] == [text.removesuffix(end) for text in wanted]


@given
def test_results_of_tools_and_questions_are_never_the_models(messages, tools, fmt, name):
    pieces = fmt.render(messages, tools)
    of_tools = [one.text for one in pieces if one.origin is Origin.TOOL]
    assert of_tools == [one["content"] for one in messages if one["role"] == "tool"]
    num_turns = sum(one["role"] == "assistant" for one in messages)
    assert sum(one.is_closed for one in pieces) == num_turns
    assert all(one.origin is Origin.MODEL for one in pieces if one.is_closed)


@given
@pytest.mark.long
def test_ids_of_some_turns_begin_those_of_more(messages, tools, fmt, name):
    used = TOKENIZERS[name]()
    whole = chat.encode(fmt, used, messages, tools)
    for end in ends_of_turns(messages):
        prompts = messages[end]["role"] == "assistant"
        ids, origins = chat.encode(fmt, used, messages[:end], tools, add_generation_prompt=prompts)
        assert whole.ids[: len(ids)] == ids and whole.origins[: len(ids)] == origins


@given
@pytest.mark.long
def test_a_continuation_follows_the_end_of_the_answer(messages, tools, fmt, name):
    """What a rollout appends to the sampled ids makes the ids of the whole conversation."""
    used = TOKENIZERS[name]()
    for start in range(1, len(messages)):
        if messages[start - 1]["role"] != "assistant":
            continue
        end = start + 1
        while end < len(messages) and messages[end]["role"] == "tool":
            end += 1
        prompt = chat.encode(fmt, used, messages[: start - 1], tools, add_generation_prompt=True)
        answer = turn_text(fmt, messages[start - 1])
        whole = chat.encode(fmt, used, messages[:end], tools, add_generation_prompt=True)
        more = chat.continuation(fmt, used, messages[:end], tools, start)
        said = whole.ids[len(prompt.ids) : -len(more.ids)]
        assert whole.ids[: len(prompt.ids)] == prompt.ids
        assert said[-1] == chat.end_id(fmt, used) and used.decode(said[:-1]) == answer
        assert whole.ids[-len(more.ids) :] == more.ids
        assert {*whole.origins[len(prompt.ids) : -len(more.ids)]} == {Origin.MODEL}
        assert Origin.MODEL not in more.origins


@given
@pytest.mark.long
def test_text_that_spells_a_special_token_stays_text(messages, tools, fmt, name):
    used = TOKENIZERS["chatml"]()
    ids = chat.encode(fmt, used, messages, tools).ids
    pieces = fmt.render(messages, tools)
    num_closed = sum(one.is_closed for one in pieces)
    of_format = "".join(one.text for one in pieces if one.origin is Origin.TEMPLATE)
    for mark in MARKS:
        wanted = of_format.count(mark) + (num_closed if fmt.end == mark else 0)
        assert ids.count(used.token_id(mark)) == wanted
    assert ids.count(used.eos_id) == (0 if fmt.end else num_closed)


@hypothesis.given(
    st.lists(conversations(max_users=2), min_size=1, max_size=4),
    FORMAT_NAMES.map(FORMATS.get),
    TOKENIZER_NAMES,
    st.integers(0, 200),
)
@pytest.mark.long
def test_packing_counts_the_models_tokens_once_and_no_other(many, fmt, name, room):
    used = TOKENIZERS[name]()
    encoded = [chat.encode(fmt, used, messages, TOOLS) for messages in many]
    sizes = [len(one.ids) for one in encoded]
    examples = whole_documents.Examples(
        tokens_T=np.concatenate([one.ids for one in encoded]).astype(np.uint16),
        origin_T=np.concatenate([one.origins for one in encoded]).astype(np.uint8),
        ends_G=np.cumsum(sizes),
        source_N=np.zeros(len(many), np.int32),
        is_heldout_N=np.zeros(len(many), bool),
    )
    seq_len = max(sizes) - 1 + room
    rows = whole_documents.pack(np.arange(len(many)), examples.lengths_N, seq_len)
    for row_N in rows:
        row = whole_documents.make_row(examples, row_N, used.token_bytes_V, seq_len, {})
        pairs = [pair for n in row_N for pair in zip(*encoded[n], strict=True)]
        said = [token for token, origin in pairs if origin is Origin.MODEL]
        assert row.targets[row.loss_mask == 1].tolist() == said
        assert row.target_bytes.sum() == used.token_bytes_V[said].sum()


@hypothesis.given(conversations(texts=CALM), FORMAT_NAMES.map(FORMATS.get))
def test_a_turn_is_read_back_as_it_was_meant(messages, fmt):
    for message in messages:
        if message["role"] == "assistant":
            assert fmt.parse(turn_text(fmt, message)) == message


@hypothesis.given(conversations(), MANY_TOOLS, FORMAT_NAMES.map(FORMATS.get), st.booleans())
def test_an_own_template_read_as_a_foreign_one_gives_the_same_mask(messages, tools, fmt, has_marks):
    source = fmt.template
    if not has_marks:
        source = source.replace("{%- generation %}", "").replace("{%- endgeneration %}", "")
    made = template.Template(source, {"eos_token": EOS_TEXT})
    if not has_marks and any(EOS_TEXT in str(one) for one in messages):
        return  # without marks, a turn ends at the last EOS_TEXT in it, even one that is text
    read = foreign.format_of(made, "twin")
    found = read.render(messages, tools)
    own = [one._replace(text=closed_text(fmt, [one])) for one in fmt.render(messages, tools)]

    def said(pieces):
        groups = itertools.groupby(pieces, lambda one: one.origin is Origin.MODEL)
        return ["".join(one.text for one in group) for is_model, group in groups if is_model]

    assert said(found) == said(own)
    assert "".join(one.text for one in found) == "".join(one.text for one in own)


CALL = call("add", {"a": 1, "b": "\ud55c"})
WHOLE = assistant("I ask.", "a sum", [CALL, CALL])


def test_plain_is_compact():
    messages = [{"role": "user", "content": "1+2?"}, WHOLE, {"role": "tool", "content": "3"}]
    text = closed_text(chat.PLAIN, chat.PLAIN.render(messages, TOOLS, True))
    assert text == (
        "tools: add(a,b) now() math.sqrt(x)\nuser: 1+2?\nassistant: ~~a sum~~I ask.\n"
        '@add {"a":1,"b":"\ud55c"}\n@add {"a":1,"b":"\ud55c"}<|eos|>tool: 3\nassistant: '
    )


@pytest.mark.parametrize(
    ("fmt", "text", "why"),
    [
        (chat.PLAIN, "~~a", "behind the reasoning"),
        (chat.PLAIN, "x\n@add {1}", "expected JSON behind @add"),
        (chat.PLAIN, "@add {}\nmore", "nothing but calls behind a call"),
        (chat.HERMES, "<think>\na", "expected </think>"),
        (chat.HERMES, '<tool_call>\n{"name": "a"}\n</tool_call>', "name and arguments"),
        (chat.HERMES, '<tool_call>\n{"name": 5, "arguments": {}}\n</tool_call>', "expected a name"),
        (chat.HERMES, '<tool_call>\n{"name": "a", "arguments": 5}\n</tool_call>', "an object"),
        (chat.HERMES, "<tool_call>\n{]\n</tool_call>", "expected JSON"),
        (chat.HERMES, "<tool_call>\n" + "[" * 10**5, "expected JSON"),
        (chat.HERMES, '<tool_call>\n{"name": "a", "arguments": {}}', "expected </tool_call>"),
        (chat.HERMES, '<tool_call>\n{"name": "a", "arguments": {}}\n</tool_call>x', "nothing but"),
    ],
)
def test_a_malformed_turn_is_an_error_and_no_answer(fmt, text, why):
    with pytest.raises(chat.FormatError, match=why) as caught:
        fmt.parse(text)
    assert isinstance(caught.value, ValueError)


def test_reasoning_that_the_prompt_has_opened_is_read():
    assert chat.HERMES.parse("a\n</think>\n\nb") == assistant("b", "a")
