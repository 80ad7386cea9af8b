"""Random conversations with tools and reasoning, and a tokenizer that has ChatML's tokens."""

import functools
import json

from hypothesis import strategies as st

from kanana_jax.data import chat, tokenizer
from kanana_jax.data.chat import messages as forms

MARKS = ("<|im_start|>", "<|im_end|>")
# Syntax of the formats, to be put into what users and the model say.
SPELLED = (*MARKS, "<|eos|>", "<tool_call>", "</think>", "<think>", "~~", "@add {", "\n", "user: ")
_WORDS = ("a", "Hi ", "\ud55c\uad6d\uc5b4", "1+2", "\u00e9", " ", "{}", '"', "'", "\\n", "<", "&")


def tool(name: str, *names: str) -> dict:
    properties = {one: {"type": "number"} for one in names}
    return {
        "type": "function",
        "function": {
            "name": name,
            "description": f"{name} & <more>",
            "parameters": {"type": "object", "properties": properties},
        },
    }


TOOLS = [tool("add", "a", "b"), tool("now"), tool("math.sqrt", "x")]
WILD = st.lists(st.sampled_from(_WORDS + SPELLED), max_size=5).map("".join)
# What a turn can be read back from.
CALM = st.lists(st.sampled_from(_WORDS), min_size=1, max_size=5).map("".join)


def _visible(texts):
    return texts.filter(lambda text: text.strip())


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.floats(-1, 1) | WILD,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(CALM, inner, max_size=2),
    max_leaves=3,
)
_CALLS = st.builds(
    forms.call,
    st.sampled_from([one["function"]["name"] for one in TOOLS]),
    st.dictionaries(st.sampled_from("abx"), _VALUES, max_size=2),
)


@st.composite
def turns(draw, texts=WILD) -> list[dict]:
    """What the assistant and its tools say to one message of the user."""
    said = []
    for calls in draw(st.lists(st.lists(_CALLS, min_size=1, max_size=2), max_size=2)):
        content, thought = draw(texts | st.just("")), draw(texts | st.just(""))
        said.append(forms.assistant(content, thought, calls))
        said += [{"role": "tool", "content": draw(WILD)} for _ in calls]
    return [*said, forms.assistant(draw(_visible(texts)), draw(texts | st.just("")))]


@st.composite
def conversations(draw, texts=WILD, max_users: int = 3) -> list[dict]:
    messages = [{"role": "system", "content": draw(WILD)}] if draw(st.booleans()) else []
    for _ in range(draw(st.integers(1, max_users))):
        messages += [{"role": "user", "content": draw(WILD)}, *draw(turns(texts))]
    return messages


@functools.cache
def chatml_tokenizer() -> tokenizer.Tokenizer:
    """Byte-level BPE with <|im_start|> and <|im_end|> as special tokens."""
    content = json.loads(tokenizer.train_bpe([b"user assistant Hi add <tool_call>"] * 9, 290).json)
    first = max(content["model"]["vocab"].values()) + 1
    for place, mark in enumerate(MARKS):
        added = {"id": first + place, "content": mark, "single_word": False, "lstrip": False}
        added |= {"rstrip": False, "normalized": False, "special": True}
        content["added_tokens"].append(added)
    return tokenizer.from_json(json.dumps(content), "chatml", bos="<|bos|>", eos="<|eos|>")


TOKENIZERS = {"bytes": tokenizer.byte_tokenizer, "chatml": chatml_tokenizer}
FORMATS = {one.name: one for one in (chat.PLAIN, chat.HERMES)}
EOS_TEXT = "<|eos|>"


def closed_text(fmt: chat.Format, pieces) -> str:
    """The text of pieces, ends of turns spelled."""
    return "".join(one.text + (fmt.end or EOS_TEXT) * one.is_closed for one in pieces)
