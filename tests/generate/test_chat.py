"""Chat templates in the dialect of Hugging Face, and what is said where there is none."""

import json

import pytest

from kanana_jax.checkpoint import CheckpointError
from kanana_jax.data import tokenizer
from kanana_jax.generate import chat

CHATML = (
    "{% for message in messages %}\n"
    "{{ bos_token if loop.first }}<|im_start|>{{ message['role'] }}\n"
    "{% generation %}{{ message['content'] }}{% endgeneration %}<|im_end|>\n"
    "{% endfor %}\n"
    "{% if add_generation_prompt %}\n"
    "<|im_start|>assistant\n"
    "{% endif %}\n"
)
MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi & bye"}]


def _write(folder, fields=None, template=None):
    if fields is not None:
        (folder / "tokenizer_config.json").write_text(json.dumps(fields))
    if template is not None:
        (folder / "chat_template.jinja").write_text(template)
    return chat.load(folder)


def test_a_conversation_becomes_the_text_that_the_template_spells(tmp_path):
    fields = {"bos_token": {"content": "<s>"}, "chat_template": CHATML}
    template = _write(tmp_path, fields)
    text = "<s><|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi & bye<|im_end|>\n"
    assert template.render(MESSAGES) == text + "<|im_start|>assistant\n"
    assert template.render(MESSAGES, add_generation_prompt=False) == text


def test_the_file_counts_before_the_field_and_default_among_several(tmp_path):
    named = [{"name": "tool", "template": "tool"}, {"name": "default", "template": "default"}]
    assert _write(tmp_path, {"chat_template": named}).render(MESSAGES) == "default"
    assert _write(tmp_path, template="{{ messages|tojson }}").render(MESSAGES) == json.dumps(
        MESSAGES
    )


def test_templates_lie_in_several_places(tmp_path):
    (tmp_path / "chat_template.json").write_text('{"chat_template": "old"}', encoding="utf-8-sig")
    assert chat.load(tmp_path).render(MESSAGES) == "old"
    assert _write(tmp_path, {"chat_template": "field"}).render(MESSAGES) == "field"
    (tmp_path / "additional_chat_templates").mkdir()
    (tmp_path / "additional_chat_templates" / "tool_use.jinja").write_text("{{ tools[0].name }}")
    template = _write(tmp_path, template="file")
    assert template.render(MESSAGES) == "file"
    assert template.render(MESSAGES, tools=[{"name": "f"}]) == "f"


def test_several_templates_without_a_default_are_none_to_choose(tmp_path):
    assert _write(tmp_path, {"chat_template": [{"name": "rag", "template": "x"}]}) is None


@pytest.mark.parametrize("field", [5, {"a": "b"}, ["x"], [{"name": "x"}], [{"template": "x"}]])
def test_a_template_that_is_no_text_is_refused(field, tmp_path):
    with pytest.raises(CheckpointError, match="chat_template must be text or a list"):
        _write(tmp_path, {"chat_template": field})


# Source, variables, and what apply_chat_template of transformers 5.24 gives for the message below.
TRANSFORMERS = {
    "separators": (
        "{{ messages|tojson(separators=(',',':')) }}",
        {},
        '[{"role":"user","content":"h\u00e9<&>"}]',
    ),
    "ensure_ascii_by_place": ("{{ messages[0].content|tojson(true) }}", {}, '"h\\u00e9<&>"'),
    "indent_by_place": ("{{ [1]|tojson(false, 1) }}", {}, "[\n 1\n]"),
    "indent_zero": ("{{ [1]|tojson(indent=0) }}", {}, "[\n1\n]"),
    "sort_keys": (
        "{{ {'b':1,'a':[none,true]}|tojson(sort_keys=true) }}",
        {},
        '{"a": [null, true], "b": 1}',
    ),
    "neither_tools_nor_documents": ("{{ tools is none }}{{ documents is none }}", {}, "TrueTrue"),
    "tools": ("{% for t in tools %}{{ t.name }}{% endfor %}", {"tools": [{"name": "f"}]}, "f"),
    "variable": (
        "{{ enable_thinking is not defined or enable_thinking }}",
        {"enable_thinking": False},
        "False",
    ),
    "variable_absent": ("{{ enable_thinking is not defined or enable_thinking }}", {}, "True"),
    "variable_over_a_token": ("{{ bos_token }}", {"bos_token": "X"}, "X"),
    "tokens": ("{{ bos_token }}{{ eos_token }}{{ pad_token is defined }}", {}, "[BOS][EOS]False"),
    "break_and_continue": (
        "{% for i in range(9) %}{% if i == 2 %}{% continue %}{% endif %}"
        "{% if i == 4 %}{% break %}{% endif %}{{ i }}{% endfor %}",
        {},
        "013",
    ),
    "generation_is_a_scope": (
        "{% set x = 1 %}{% generation %}{% set x = 2 %}{{ x }}{% endgeneration %}{{ x }}",
        {},
        "21",
    ),
    "generation_in_a_loop": (
        "{% for m in messages %}{%- generation -%} {{ loop.index }} {% endgeneration %}"
        "{% endfor %}",
        {},
        "1 ",
    ),
    "blocks_are_trimmed": ("  {% if true %}\n  a\n  {% endif %}\nb\n", {}, "  a\nb"),
    "date": ("{{ strftime_now('%%') }}", {}, "%"),
    "no_html": ("{{ messages[0].content }}", {}, "h\u00e9<&>"),
}


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_a_template_gives_what_transformers_gives(name):
    source, variables, want = TRANSFORMERS[name]
    template = chat.Template(source, {"bos_token": "[BOS]", "eos_token": "[EOS]"})
    messages = [{"role": "user", "content": "h\u00e9<&>"}]
    assert template.render(messages, **variables) == want


def test_a_field_of_a_message_that_is_none_is_absent():
    template = chat.Template("{{ messages[0].tool_calls is defined }}", {})
    assert template.render([{"role": "assistant", "content": "", "tool_calls": None}]) == "False"


def test_content_that_is_none_stays_so():
    # DeepSeek-V3's template recognises an answer that is only a tool call by this.
    template = chat.Template("{{ messages[0].content is none }}", {})
    assert template.render([{"role": "assistant", "content": None}]) == "True"


def test_a_checkpoint_without_a_template_has_none(tmp_path):
    assert _write(tmp_path) is None
    assert _write(tmp_path, {"bos_token": "<s>"}) is None


@pytest.mark.parametrize("source", ["{% for %}", "{% break %}"])
def test_a_template_that_is_no_jinja_is_refused_when_loaded(tmp_path, source):
    with pytest.raises(CheckpointError, match="no valid jinja"):
        _write(tmp_path, template=source)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
        ("{{ messages[7].content }}", "refuses"),
        ("{{ messages.__class__.__mro__ }}", "unsafe"),  # the way out of a sandbox
        ("{{ messages.append(1) }}", "unsafe"),
        ("{{ 1 / 0 }}", "division by zero"),
        ("{{ range(10000000) }}", "Range too big"),
        ("{{ nothing|tojson }}", "not JSON serializable"),
    ],
)
def test_what_a_template_may_not_do_is_one_error(tmp_path, template, message):
    with pytest.raises(chat.ChatError, match=message):
        _write(tmp_path, template=template).render(MESSAGES)


def test_special_tokens_are_read_where_a_template_spelled_them_and_only_there():
    text = f"{tokenizer.BOS}hi{tokenizer.EOS}"
    used = tokenizer.byte_tokenizer()
    assert used.encode_marked(text) == [256, 104, 105, 257]
    assert list(used.encode(text)) == list(text.encode())
    bpe = tokenizer.train_bpe([b"hi there hi"] * 3, 260)
    marked = bpe.encode_marked(text)
    assert (marked[0], marked[-1]) == (bpe.bos_id, bpe.eos_id)
    assert bpe.decode(marked) == "hi"
    assert bpe.bos_id not in bpe.encode(text)
