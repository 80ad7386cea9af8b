"""Makes goldens/hermes.json: what transformers and renderers write for the same conversations.

    python -m pip install renderers==0.1.12 transformers jinja2 httpx     (in another environment)
    python tests/data/make_chat_goldens.py

transformers renders goldens/hermes.jinja, which is our template, and masks what it marks. renderers
has a Qwen3 format of its own. It equals ours where no answer before the last question thinks, and
the last answer does or is still to be written. The tokenizer has a token per byte.
"""

import json
import pathlib

import renderers.qwen3
import tokenizers
import transformers
from tokenizers import decoders, models, pre_tokenizers

HERE = pathlib.Path(__file__).parent / "goldens"
SPECIAL = ["<|im_start|>", "<|im_end|>", "<|endoftext|>"]
ADDED = [f"<{end}{name}>" for name in ("tool_call", "tool_response", "think") for end in ("", "/")]

SYSTEM = {"role": "system", "content": "Be brief.\n\ud55c\uad6d\uc5b4\ub85c."}
ASK, AGAIN = {"role": "user", "content": "1+2? <&> 'q'"}, {"role": "user", "content": "And 2?"}


def call(name, **arguments):
    return {"type": "function", "function": {"name": name, "arguments": arguments}}


def says(content, *calls, thought=""):
    message = {"role": "assistant", "content": content}
    message |= {"reasoning_content": thought} if thought else {}
    return message | ({"tool_calls": list(calls)} if calls else {})


def result(content):
    return {"role": "tool", "content": content}


TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "add",
            "description": "Adds <a> & 'b', \ub354\ud558\uae30.",
            "parameters": {"type": "object", "properties": {"a": {"type": "number"}}},
        },
    },
    {"type": "function", "function": {"name": "now"}},
]
ADD, NOW = call("add", a=1, b=[None, True, "\ud55c", 0.5]), call("now")
CASES = {
    "question": [ASK],
    "system": [SYSTEM, ASK, says("3"), AGAIN],
    "calls": [SYSTEM, ASK, says("I ask.", ADD, NOW), result("3"), result("{}"), says("3"), AGAIN],
    "only_a_call": [ASK, says("", ADD), result("3\n")],
    "thought": [SYSTEM, ASK, says("3"), AGAIN, says("2", thought="easy\nso")],
    "thought_and_call": [ASK, says("", ADD, thought="add"), result("3"), says("3", thought="ok")],
}


def made_tokenizer():
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    library = tokenizers.Tokenizer(
        models.BPE(vocab={one: n for n, one in enumerate(alphabet)}, merges=[])
    )
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = decoders.ByteLevel()
    library.add_special_tokens(SPECIAL)
    library.add_tokens(ADDED)
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=library, eos_token="<|im_end|>", clean_up_tokenization_spaces=False
    )


def spans(used, ids, mask):
    """The text that is the model's, stretch by stretch."""
    found, before = [], False
    for one, is_model in zip(ids, mask, strict=True):
        if is_model and not before:
            found.append([])
        if is_model:
            found[-1].append(one)
        before = bool(is_model)
    return [used.decode(one) for one in found]


def by_transformers(used, messages, tools, prompts):
    made = used.apply_chat_template(
        messages,
        tools=tools or None,
        add_generation_prompt=prompts,
        return_assistant_tokens_mask=True,
        return_dict=True,
        chat_template=(HERE / "hermes.jinja").read_text(),
    )
    ids = made["input_ids"]
    return {"text": used.decode(ids), "model": spans(used, ids, made["assistant_masks"])}


def by_renderers(used, messages, tools, prompts):
    made = renderers.qwen3.Qwen3Renderer(used).render(
        messages, tools=tools or None, add_generation_prompt=prompts
    )
    ids = made.token_ids
    return {"text": used.decode(ids), "model": spans(used, ids, made.sampled_mask)}


def main():
    used, cases = made_tokenizer(), []
    for name, messages in CASES.items():
        needs_tools = any("tool_calls" in one for one in messages)
        for tools in [TOOLS] if needs_tools else [[], TOOLS]:
            given = messages, tools, messages[-1]["role"] != "assistant"
            keys = ("messages", "tools", "add_generation_prompt")
            of_both = {
                "transformers": by_transformers(used, *given),
                "renderers": by_renderers(used, *given),
            }
            cases.append({"name": name, **dict(zip(keys, given, strict=True)), **of_both})
    versions = {"transformers": transformers.__version__, "renderers": "0.1.12"}
    content = {"versions": versions, "cases": cases}
    (HERE / "hermes.json").write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
