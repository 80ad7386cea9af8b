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


def test_a_checkpoint_without_a_template_has_none(tmp_path):
    assert _write(tmp_path) is None
    assert _write(tmp_path, {"bos_token": "<s>"}) is None


def test_a_template_that_is_no_jinja_is_refused_when_loaded(tmp_path):
    with pytest.raises(CheckpointError, match="no valid jinja"):
        _write(tmp_path, template="{% for %}")


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
        ("{{ messages[7].content }}", "refuses"),
        ("{{ messages.__class__.__mro__ }}", "unsafe"),  # the way out of a sandbox
        ("{{ messages.append(1) }}", "unsafe"),
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
