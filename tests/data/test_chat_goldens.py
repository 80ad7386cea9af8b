"""The hermes format against transformers and renderers; make_chat_goldens.py says how."""

import itertools
import json
import pathlib

import pytest

from kanana_jax.data import chat
from kanana_jax.data.chat import Origin

HERE = pathlib.Path(__file__).parent / "goldens"
CASES = json.loads((HERE / "hermes.json").read_text())["cases"]


def test_the_template_that_others_rendered_is_ours():
    assert (HERE / "hermes.jinja").read_text() == chat.HERMES.template


@pytest.mark.parametrize("library", ["transformers", "renderers"])
@pytest.mark.parametrize("case", CASES, ids=[f"{x['name']}-{len(x['tools'])}" for x in CASES])
def test_text_and_mask_are_those_of_other_libraries(case, library):
    pieces = chat.HERMES.render(case["messages"], case["tools"], case["add_generation_prompt"])
    texts = [(one.text + chat.HERMES.end * one.is_closed, one.origin) for one in pieces]
    assert "".join(text for text, _ in texts) == case[library]["text"]
    groups = itertools.groupby(texts, lambda pair: pair[1] is Origin.MODEL)
    said = ["".join(text for text, _ in group) for is_model, group in groups if is_model]
    assert said == case[library]["model"]
