"""Tools, reasoning and the form of answers over HTTP, with an engine that says what is scripted."""

import asyncio
import json

import http_client
import pytest
from scripted import ADD, NOW, SAYS, Scripted, say, with_template
from served import Served

from kanana_jax.data import tokenizer

PATH = "/v1/chat/completions"
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "add",
            "description": "Adds.",
            "parameters": {
                "type": "object",
                "properties": {"a": {"type": "integer"}, "b": {"type": "string"}},
            },
        },
    },
    {"type": "function", "function": {"name": "now"}},
]
ARGUMENTS = {"a": 1, "b": "\ud55c"}


def user(text):
    return {"role": "user", "content": text}


def ask(text, **more):
    return {"messages": [user(text)], "max_tokens": 900, "seed": 1} | more


def _choice(answer):
    assert answer.status == 200, answer.body
    (choice,) = answer.body["choices"]
    return choice


def _joined(events):
    """The message and the finish reason of a stream's choice 0."""
    *chunks, done = events
    assert done == "[DONE]"
    message = {"content": "", "reasoning_content": "", "tool_calls": []}
    (*_, reason) = [chunk["choices"][0]["finish_reason"] for chunk in chunks if chunk["choices"]]
    for chunk in chunks:
        for choice in chunk["choices"]:
            delta = choice["delta"]
            for name in ("content", "reasoning_content"):
                message[name] += delta.get(name) or ""
            for call in delta.get("tool_calls", []):
                assert call["index"] == len(message["tool_calls"])
                message["tool_calls"].append({k: v for k, v in call.items() if k != "index"})
    return message, reason


CASES = {
    "hello": ("hello", "Hello, \ud55c\uad6d!", "", [], "stop"),
    "add": ("add", None, "", ["add"], "tool_calls"),
    "both": ("both", "I ask.", "", ["add", "now"], "tool_calls"),
    "think": ("think", "Done.", "so\nit is", [], "stop"),
    "plan": ("plan", None, "add", ["add"], "tool_calls"),
    "broken": ("broken", SAYS["broken"], "", [], "stop"),
    "nothing": ("nothing", "", "", [], "stop"),
}


@pytest.mark.parametrize("name", CASES)
def test_an_answer_is_taken_apart_whole_and_streamed(hermes, name):
    text, content, thought, names, reason = CASES[name]
    choice = _choice(hermes.fetch(PATH, ask(text, tools=TOOLS)))
    message = choice["message"]
    assert (message["content"], choice["finish_reason"]) == (content, reason)
    assert message.get("reasoning_content", "") == thought
    calls = message.get("tool_calls", [])
    assert [call["function"]["name"] for call in calls] == names
    if names:
        assert json.loads(calls[0]["function"]["arguments"]) == ARGUMENTS
        assert len({call["id"] for call in calls} | {""}) == len(calls) + 1
    events = hermes.fetch(PATH, ask(text, tools=TOOLS, stream=True)).body
    streamed, end = _joined(events)
    assert end == reason
    assert (streamed["content"], streamed["reasoning_content"]) == (content or "", thought)
    told = [call["function"] for call in streamed["tool_calls"]]
    assert told == [call["function"] for call in calls]


def test_a_conversation_goes_on_with_its_own_messages(hermes):
    messages = [user("both")]
    first = _choice(hermes.fetch(PATH, ask("", messages=messages, tools=TOOLS)))["message"]
    messages.append(first)
    for call, result in zip(first["tool_calls"], ("3", "noon"), strict=True):
        messages.append({"role": "tool", "tool_call_id": call["id"], "content": result})
    second = _choice(hermes.fetch(PATH, ask("", messages=messages, tools=TOOLS)))["message"]
    assert second["content"] == "It is 3 and noon"
    messages += [second, user("think")]
    third = _choice(hermes.fetch(PATH, ask("", messages=messages, tools=TOOLS)))["message"]
    messages += [third, user("nothing")]
    fourth = _choice(hermes.fetch(PATH, ask("", messages=messages, tools=TOOLS)))["message"]
    messages += [fourth, user("hello")]
    # Without tools and with the calls in the history, as agents end.
    last = _choice(hermes.fetch(PATH, ask("", messages=messages)))["message"]
    assert last["content"] == SAYS["hello"]
    text = tokenizer.byte_tokenizer().decode(hermes.engine.asked[-1].prompt)
    assert f"I ask.\n{ADD}\n{NOW}" in text and SAYS["think"] in text


def test_tools_are_told_and_read_by_choice(hermes):
    def prompt_and_message(**more):
        choice = _choice(hermes.fetch(PATH, ask("add", **more)))
        ids = [i for i in hermes.engine.asked[-1].prompt if i < 256]
        return bytes(ids).decode(), choice["message"]

    text, message = prompt_and_message()
    assert "# Tools" not in text and message["content"] == ADD
    text, message = prompt_and_message(tools=TOOLS, tool_choice="none")
    assert "# Tools" in text and message["content"] == ADD
    assert hermes.engine.asked[-1].constraint is None
    text, message = prompt_and_message(tools=TOOLS, tool_choice="auto")
    assert message["tool_calls"] and hermes.engine.asked[-1].constraint is None
    for choice in ("required", {"type": "function", "function": {"name": "add"}}):
        _, message = prompt_and_message(tools=TOOLS, tool_choice=choice)
        assert message["tool_calls"] and hermes.engine.asked[-1].constraint is not None


def test_an_answer_that_is_cut_off_behind_a_call_says_so(hermes):
    """Clients act on calls, but more of them might have followed."""
    most = len(f"I ask.\n{ADD}\n<tool".encode())
    body = ask("both", tools=TOOLS) | {"max_tokens": most}
    choice = _choice(hermes.fetch(PATH, body))
    assert [call["function"]["name"] for call in choice["message"]["tool_calls"]] == ["add"]
    assert choice["finish_reason"] == "length"
    streamed, end = _joined(hermes.fetch(PATH, body | {"stream": True}).body)
    assert ([call["function"]["name"] for call in streamed["tool_calls"]], end) == (
        ["add"],
        "length",
    )


def test_one_call_is_kept_where_parallel_ones_are_not_wanted(hermes):
    body = ask("both", tools=TOOLS, parallel_tool_calls=False)
    message = _choice(hermes.fetch(PATH, body))["message"]
    assert [call["function"]["name"] for call in message["tool_calls"]] == ["add"]
    streamed, _ = _joined(hermes.fetch(PATH, body | {"stream": True}).body)
    assert [call["function"]["name"] for call in streamed["tool_calls"]] == ["add"]


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"tools": TOOLS, "tool_choice": "perhaps"}, "tool_choice"),
        ({"tools": TOOLS, "tool_choice": {"type": "function"}}, "tool_choice"),
        ({"tools": TOOLS, "tool_choice": {"type": 5, "function": {}}}, "tool_choice"),
        (
            {"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "sub"}}},
            "tool_choice",
        ),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": 5}, "tool_choice"),
        ({"tools": TOOLS * 100}, "tools"),
        ({"tools": TOOLS + TOOLS}, "tools"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools"),
        (
            {"tools": [{"type": "function", "function": {"name": "a", "strict": 1}}]},
            "tools[0].function.strict",
        ),
        ({"parallel_tool_calls": 1}, "parallel_tool_calls"),
        ({"response_format": {"type": "json"}}, "response_format"),
        ({"response_format": {"type": "json_schema", "json_schema": {}}},
         "response_format.json_schema.schema"),
        ({"response_format": {"type": "json_schema", "json_schema": {"schema": {}, "x": 1}}},
         "response_format.json_schema.x"),
        ({"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "x"}}}},
         "response_format"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"logprobs": 1}, "logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"documents": ["x"]}, "documents"),
        ({"documents": [{"text": "x"}]}, "documents"),
        ({"chat_template_kwargs": []}, "chat_template_kwargs"),
        ({"chat_template_kwargs": {"messages": []}}, "chat_template_kwargs.messages"),
        ({"chat_template_kwargs": {"self": 1}}, "chat_template_kwargs.self"),
        ({"include_reasoning": False}, "include_reasoning"),
        ({"reasoning_effort": "high"}, "reasoning_effort"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_refused_by_name(hermes, more, param):
    answer = hermes.fetch(PATH, ask("hello", **more))
    assert (answer.status, answer.body["error"]["param"]) == (400, param), answer.body


def test_tools_are_refused_where_nobody_tells_them(loaded):
    with Served(loaded, engine=Scripted(say), length=4096) as server:
        answer = server.fetch(PATH, ask("add", tools=TOOLS))
        assert (answer.status, answer.body["error"]["param"]) == (400, "tools")
        # Nothing of it is read as a call or as reasoning either.
        assert _choice(server.fetch(PATH, ask("plan")))["message"]["content"] == SAYS["plan"]


THINKING = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{{ documents[0].text if documents }}{{ tools }}<tool_call>"
    "<|im_start|>assistant\n<think>\n{% if enable_thinking is false %}\n</think>\n\n{% endif %}"
)


def test_a_template_may_open_the_reasoning_and_has_variables(loaded):
    def said(prompt):
        return "so.\n</think>\n\n<think> is a mark." if prompt.endswith("<think>\n") else "Done."

    engine = Scripted(said)
    with Served(with_template(loaded, THINKING), engine=engine, length=4096) as server:
        message = _choice(server.fetch(PATH, ask("x")))["message"]
        assert message["reasoning_content"] == "so."
        assert message["content"] == "<think> is a mark."
        off = ask("x", chat_template_kwargs={"enable_thinking": False, "unheard": 1})
        message = _choice(server.fetch(PATH, off))["message"]
        assert message["content"] == "Done." and "reasoning_content" not in message
        documents = ask("x", documents=[{"text": "What is known."}])
        _choice(server.fetch(PATH, documents))
        assert "What is known." in bytes(i for i in engine.asked[-1].prompt if i < 256).decode()


KIMI = (
    "{% for m in messages %}{{ m.role }}:{{ m.content }};{% endfor %}{{ tools }}"
    "{# <|tool_calls_section_begin|> #}"
)


def test_kimis_calls_have_their_own_ids(loaded):
    called = (
        "Ok<|tool_calls_section_begin|><|tool_call_begin|>functions.add:0"
        '<|tool_call_argument_begin|>{"a": 1}<|tool_call_end|><|tool_calls_section_end|>'
    )
    engine = Scripted(lambda _: called)
    with Served(with_template(loaded, KIMI), engine=engine, length=4096) as server:
        choice = _choice(server.fetch(PATH, ask("x", tools=TOOLS)))
        (call,) = choice["message"]["tool_calls"]
        assert (call["id"], choice["message"]["content"]) == ("functions.add:0", "Ok")
        again = [user("x"), choice["message"], {"role": "tool", "tool_call_id": call["id"],
                                                "content": "3"}]  # fmt: skip
        assert server.fetch(PATH, ask("", messages=again, tools=TOOLS)).status == 200


def test_several_choices_are_streamed_side_by_side(hermes):
    body = ask("both", tools=TOOLS, n=3, stream=True, stream_options={"include_usage": True})
    *chunks, usage, _ = hermes.fetch(PATH, body).body
    for place in range(3):
        own = [c for c in chunks if c["choices"][0]["index"] == place]
        message, reason = _joined([*own, "[DONE]"])
        assert (message["content"], reason) == ("I ask.", "tool_calls")
        assert len(message["tool_calls"]) == 2
    num_drawn = 3 * (len(SAYS["both"].encode()) + 1)
    assert usage["usage"]["completion_tokens"] == num_drawn


def test_logprobs_of_a_message_are_told_token_by_token(hermes):
    body = ask("hello", logprobs=True, top_logprobs=2)
    choice = _choice(hermes.fetch(PATH, body))
    content = choice["logprobs"]["content"]
    raw = [byte for one in content for byte in one["bytes"]]
    assert bytes(raw) == SAYS["hello"].encode() + b"<|eos|>"
    assert {len(one["top_logprobs"]) for one in content} == {2}
    assert content[0]["token"] == "H" and content[0]["logprob"] == -0.5
    assert content[0]["top_logprobs"][1] == {"token": "I", "logprob": -1.5, "bytes": [ord("I")]}
    *chunks, _ = hermes.fetch(PATH, body | {"stream": True}).body
    parts = [c["choices"][0]["logprobs"] for c in chunks if c["choices"]]
    streamed = [one for part in parts if part for one in part["content"]]
    assert streamed == content
    assert _choice(hermes.fetch(PATH, ask("hello")))["logprobs"] is None


def test_a_client_that_hangs_up_within_a_call_frees_its_row(hermes):
    async def hang_up():
        body = ask("both", tools=TOOLS, stream=True)
        reader, writer = await http_client.send(hermes.port, PATH, body)
        await reader.readuntil(b"data: ")
        writer.close()

    asyncio.run(hang_up())
    hermes.wait_until_idle()
    assert _choice(hermes.fetch(PATH, ask("hello")))["finish_reason"] == "stop"
