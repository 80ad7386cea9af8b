"""What OpenAI's own client and LangChain see of the server; needs the extra `clients`."""

import concurrent.futures
import json
import threading

import pytest
from scripted import SAYS, Scripted, say, with_template
from served import GREEDY, Served
from test_serve_chat import ARGUMENTS, KIMI, TOOLS, user

openai = pytest.importorskip("openai")
pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore")]


def _client(server, **options):
    settings = {"api_key": "x", "max_retries": 0, "timeout": 120} | options
    return openai.OpenAI(base_url=f"http://127.0.0.1:{server.port}/v1", **settings)


@pytest.fixture(scope="module")
def client(hermes):
    with _client(hermes) as client:
        yield client


@pytest.fixture(scope="module")
def plain(served):
    """The client of a model that draws."""
    with _client(served) as client:
        yield client


def answer(client, text, **more):
    return client.chat.completions.create(model="small", messages=[user(text)], **more)


def streamed(client, text, **more):
    return [*answer(client, text, stream=True, **more)]


# Models, errors, headers.


def test_models_are_listed_and_found(client):
    assert [one.id for one in client.models.list()] == ["small"]
    assert client.models.retrieve("small").owned_by == "kanana_jax"


@pytest.mark.parametrize(
    ("more", "kind", "param"),
    [
        ({"model": "other"}, "NotFoundError", "model"),
        ({"temperature": 3}, "BadRequestError", "temperature"),
        ({"messages": []}, "BadRequestError", "messages"),
        ({"tools": [{}]}, "BadRequestError", "tools"),
        ({"tool_choice": "required"}, "BadRequestError", "tool_choice"),
        ({"n": 1000}, "BadRequestError", "n"),
        ({"extra_body": {"temprature": 1}}, "BadRequestError", "temprature"),
        ({"modalities": ["audio"]}, "BadRequestError", "modalities"),
    ],
)
def test_refusals_are_the_clients_errors(client, more, kind, param):
    body = {"model": "small", "messages": [user("hello")]} | more
    with pytest.raises(getattr(openai, kind)) as caught:
        client.chat.completions.create(**body)
    assert caught.value.body["param"] == param


def test_a_wrong_key_is_an_authentication_error(loaded):
    with Served(loaded, engine=Scripted(say), api_key="right") as server:
        with _client(server, api_key="wrong") as client, pytest.raises(openai.AuthenticationError):
            client.models.list()
        with _client(server, api_key="right") as client:
            assert client.models.list().data


def test_a_full_queue_is_a_rate_limit_error_that_is_tried_again(loaded):
    gate = threading.Event()

    class Slow(Scripted):
        def step(self):
            gate.wait(60)
            return super().step()

    with (
        Served(loaded, engine=Slow(say), num_rows=1, max_waiting=0, length=4096) as server,
        _client(server) as client,
        concurrent.futures.ThreadPoolExecutor() as pool,
    ):
        first = pool.submit(answer, client, "hello")
        while not server.worker.num_open:
            pass
        with pytest.raises(openai.RateLimitError):
            answer(client, "hello")
        patient = pool.submit(answer, _client(server, max_retries=8), "hello")
        gate.set()
        texts = [one.result().choices[0].message.content for one in (first, patient)]
        assert texts == [SAYS["hello"]] * 2


# Answers, whole and streamed.


@pytest.mark.parametrize("word", ["hello", "nothing", "long", "broken"])
def test_a_message_is_text(client, word):
    found = answer(client, word)
    assert found.choices[0].message.content == SAYS[word]
    assert found.choices[0].finish_reason == "stop"
    assert found.usage.completion_tokens == len(SAYS[word].encode()) + 1


@pytest.mark.parametrize("word", ["hello", "nothing", "long"])
def test_a_stream_is_the_same_text(client, word):
    chunks = streamed(client, word)
    assert "".join(one.choices[0].delta.content or "" for one in chunks) == SAYS[word]
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert len({one.id for one in chunks}) == 1


def test_a_stream_counts_tokens_at_its_end(client):
    *_, last = streamed(client, "hello", stream_options={"include_usage": True})
    assert (last.choices, last.usage.completion_tokens) == ([], len(SAYS["hello"].encode()) + 1)


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_an_answer_is_cut_off_by_its_length(client, name):
    found = answer(client, "hello", **{name: 3})
    assert (found.choices[0].message.content, found.choices[0].finish_reason) == ("Hel", "length")


@pytest.mark.parametrize("stop", ["lo", ["zz", "lo"]])
def test_a_stop_string_ends_an_answer(client, stop):
    assert answer(client, "hello", stop=stop).choices[0].message.content == "Hel"
    chunks = streamed(client, "hello", stop=stop)
    assert "".join(one.choices[0].delta.content or "" for one in chunks) == "Hel"


def test_several_choices_have_their_places(client):
    found = answer(client, "hello", n=3)
    assert [one.index for one in found.choices] == [0, 1, 2]


def test_parts_of_content_are_joined(client):
    parts = [{"type": "text", "text": "hel"}, {"type": "text", "text": "lo"}]
    messages = [{"role": "developer", "content": "Be kind."}, user(parts)]
    found = client.chat.completions.create(model="small", messages=messages)
    assert found.choices[0].message.content == SAYS["hello"]


def test_logprobs_of_a_message(client):
    found = answer(client, "hello", logprobs=True, top_logprobs=2).choices[0].logprobs.content
    assert bytes(byte for one in found for byte in one.bytes).startswith(SAYS["hello"].encode())
    assert [len(one.top_logprobs) for one in found] == [2] * len(found)


def test_logprobs_of_a_stream(client):
    chunks = streamed(client, "hello", logprobs=True)
    told = [
        one
        for chunk in chunks
        if chunk.choices[0].logprobs
        for one in chunk.choices[0].logprobs.content
    ]
    assert len(told) == len(SAYS["hello"].encode()) + 1


def test_notes_of_the_caller_change_nothing(client):
    notes = {"user": "u", "metadata": {"a": "b"}, "store": False, "service_tier": "auto"}
    notes |= {"safety_identifier": "s", "prompt_cache_key": "k", "seed": 5}
    assert answer(client, "hello", **notes).choices[0].message.content == SAYS["hello"]


def test_raw_responses_have_their_type(client):
    raw = client.chat.completions.with_raw_response.create(model="small", messages=[user("hello")])
    assert raw.status_code == 200 and raw.headers["content-type"] == "application/json"


# Reasoning.


def test_reasoning_stands_apart(client):
    message = answer(client, "think").choices[0].message
    assert (message.content, message.reasoning_content) == ("Done.", "so\nit is")


def test_reasoning_is_streamed_before_the_content(client):
    deltas = [one.choices[0].delta for one in streamed(client, "think")]
    thought = [getattr(one, "reasoning_content", None) or "" for one in deltas]
    content = [one.content or "" for one in deltas]
    assert ("".join(thought), "".join(content)) == ("so\nit is", "Done.")
    assert max(n for n, one in enumerate(thought) if one) <= min(
        n for n, one in enumerate(content) if one
    )


def test_reasoning_may_be_sent_back(client):
    first = answer(client, "think").choices[0].message
    messages = [user("think"), first, user("hello")]
    found = client.chat.completions.create(model="small", messages=messages)
    assert found.choices[0].message.content == SAYS["hello"]


def test_variables_of_the_template_are_taken(client):
    extra = {"chat_template_kwargs": {"enable_thinking": False}}
    assert answer(client, "hello", extra_body=extra).choices[0].message.content == SAYS["hello"]


# Tools.


@pytest.mark.parametrize("choice", ["auto", "required", {"type": "function",
                                    "function": {"name": "add"}}])  # fmt: skip
def test_a_tool_is_called(client, choice):
    found = answer(client, "add", tools=TOOLS, tool_choice=choice).choices[0]
    (call,) = found.message.tool_calls
    assert (found.finish_reason, found.message.content) == ("tool_calls", None)
    assert call.function.name == "add"
    assert json.loads(call.function.arguments) == ARGUMENTS


def test_no_tool_is_called_where_none_may_be(client):
    assert not answer(client, "add", tools=TOOLS, tool_choice="none").choices[0].message.tool_calls


def test_tools_in_parallel(client):
    calls = answer(client, "both", tools=TOOLS).choices[0].message.tool_calls
    assert [one.function.name for one in calls] == ["add", "now"]
    assert len({one.id for one in calls}) == 2
    calls = answer(client, "both", tools=TOOLS, parallel_tool_calls=False).choices[0].message
    assert len(calls.tool_calls) == 1


@pytest.mark.parametrize("word", ["add", "both", "plan"])
def test_a_stream_of_calls_is_put_together(client, word):
    calls = {}
    for chunk in streamed(client, word, tools=TOOLS):
        for one in chunk.choices[0].delta.tool_calls or []:
            call = calls.setdefault(one.index, {"id": one.id, "name": "", "arguments": ""})
            call["name"] += one.function.name or ""
            call["arguments"] += one.function.arguments or ""
    assert [one["name"] for one in calls.values()] == ["add", "now"][: 1 + (word == "both")]
    assert json.loads(calls[0]["arguments"]) == ARGUMENTS


def test_the_clients_own_stream_gathers_the_message(client):
    with client.chat.completions.stream(
        model="small", messages=[user("both")], tools=TOOLS
    ) as stream:
        kinds = {event.type for event in stream}
        message = stream.get_final_completion().choices[0].message
    assert "content.delta" in kinds
    assert [one.function.name for one in message.tool_calls] == ["add", "now"]
    assert message.content == "I ask."


def test_an_agents_loop_ends_in_an_answer(client):
    messages = [user("both")]
    for _ in range(3):
        found = client.chat.completions.create(model="small", messages=messages, tools=TOOLS)
        message = found.choices[0].message
        messages.append(message)
        if not message.tool_calls:
            break
        for call in message.tool_calls:
            result = {"role": "tool", "tool_call_id": call.id, "content": call.function.name}
            messages.append(result)
    assert message.content == "It is add and now"


def test_a_dumped_message_may_be_sent_back(client):
    first = answer(client, "both", tools=TOOLS).choices[0].message.model_dump()
    results = [
        {"role": "tool", "tool_call_id": one["id"], "content": "r"} for one in first["tool_calls"]
    ]
    found = client.chat.completions.create(
        model="small", messages=[user("both"), first, *results], tools=TOOLS
    )
    assert found.choices[0].message.content == "It is r and r"


def test_a_message_without_text_may_be_sent_back(client):
    first = answer(client, "nothing").choices[0].message
    found = client.chat.completions.create(
        model="small", messages=[user("nothing"), first, user("hello")]
    )
    assert found.choices[0].message.content == SAYS["hello"]


def test_calls_of_kimi_keep_their_ids(loaded):
    said = (
        "<|tool_calls_section_begin|><|tool_call_begin|>functions.add:0"
        '<|tool_call_argument_begin|>{"a": 1}<|tool_call_end|><|tool_calls_section_end|>'
    )
    with (
        Served(with_template(loaded, KIMI), engine=Scripted(lambda _: said), length=4096) as server,
        _client(server) as client,
    ):
        (call,) = answer(client, "x", tools=TOOLS).choices[0].message.tool_calls
        assert call.id == "functions.add:0"


# Forms of content.


def test_an_answer_is_parsed_into_a_model(client):
    import pydantic

    class Person(pydantic.BaseModel):
        name: str
        age: int

    found = client.chat.completions.parse(
        model="small", messages=[user("json")], response_format=Person
    )
    assert found.choices[0].message.parsed == Person(name="Kim", age=3)


@pytest.mark.parametrize(
    "form",
    [
        {"type": "text"},
        {"type": "json_object"},
        {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}},
    ],
)
def test_a_form_is_taken(client, form):
    found = answer(client, "json", response_format=form).choices[0].message
    assert json.loads(found.content) == {"name": "Kim", "age": 3}


def test_a_schema_that_cannot_be_kept_to_is_a_bad_request(client):
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "x"}}}
    with pytest.raises(openai.BadRequestError):
        answer(client, "json", response_format=form)


# Completions.


def test_a_completion(plain):
    found = plain.completions.create(model="small", **GREEDY)
    assert found.choices[0].finish_reason == "length" and found.usage.completion_tokens == 12
    assert plain.completions.create(model="small", **GREEDY).choices == found.choices


def test_a_completion_is_streamed(plain):
    whole = plain.completions.create(model="small", **GREEDY).choices[0].text
    chunks = [*plain.completions.create(model="small", stream=True, **GREEDY)]
    assert "".join(one.choices[0].text for one in chunks) == whole


@pytest.mark.parametrize("prompt", ["abc", [1, 2, 3], ["a", "b"], [[1], [2, 3]]])
def test_prompts_are_text_or_ids(plain, prompt):
    found = plain.completions.create(model="small", prompt=prompt, max_tokens=2)
    assert len(found.choices) == (2 if prompt in (["a", "b"], [[1], [2, 3]]) else 1)


def test_a_completion_is_echoed_with_logprobs(plain):
    found = plain.completions.create(
        model="small", prompt="abc", max_tokens=1, echo=True, logprobs=2
    ).choices[0]
    assert found.text.startswith("abc")
    assert found.logprobs.token_logprobs[0] is None and len(found.logprobs.tokens) == 5


@pytest.mark.parametrize(
    "more",
    [
        {"logit_bias": {"66": 100}},
        {"logit_bias": {"66": 100}, "top_p": 0.5},
        {"logit_bias": {"66": 100}, "presence_penalty": 1.0, "frequency_penalty": 0.5},
        {"logit_bias": {"66": 100}, "extra_body": {"top_k": 4, "min_p": 0.1}},
        {"logit_bias": {"66": 100}, "extra_body": {"repetition_penalty": 1.1}},
        {"logit_bias": {"66": 100}, "extra_body": {"min_tokens": 2, "ignore_eos": True}},
    ],
)
def test_ways_to_draw(plain, more):
    found = plain.completions.create(model="small", prompt="abc", max_tokens=4, **more)
    assert found.choices[0].text == "BBBB"


def test_a_seed_repeats(plain):
    def text(seed):
        found = plain.completions.create(model="small", prompt="a", max_tokens=12, seed=seed)
        return found.choices[0].text

    assert text(3) == text(3) != text(4)


def test_a_stop_token_ends_it(plain):
    found = plain.completions.create(
        model="small", prompt="abc", max_tokens=9, logit_bias={"66": 100},
        extra_body={"stop_token_ids": [66]},
    )  # fmt: skip
    assert (found.choices[0].text, found.choices[0].finish_reason) == ("", "stop")


# Many at once, and clients that go.


def test_two_hundred_at_once(client):
    words = ["hello", "add", "think", "both"] * 50

    def one(word):
        return answer(client, word, tools=TOOLS).choices[0].message

    with concurrent.futures.ThreadPoolExecutor(200) as pool:
        found = [*pool.map(one, words)]
    for word, message in zip(words, found, strict=True):
        names = {"add": ["add"], "both": ["add", "now"]}.get(word, [])
        assert [call.function.name for call in message.tool_calls or []] == names


def test_two_hundred_at_once_of_a_model_that_draws(plain, served):
    def one(seed):
        asked = {"prompt": "ab", "max_tokens": 4, "seed": seed % 7}
        return plain.completions.create(model="small", **asked).choices[0].text

    with concurrent.futures.ThreadPoolExecutor(200) as pool:
        texts = [*pool.map(one, range(200))]
    assert len({*zip(texts, (seed % 7 for seed in range(200)), strict=True)}) == 7
    served.wait_until_idle()


def test_a_stream_that_is_closed_frees_its_place(plain, served):
    for _ in range(20):
        stream = plain.completions.create(
            model="small", prompt="abc", max_tokens=60, stream=True, extra_body={"ignore_eos": True}
        )
        next(iter(stream))
        stream.close()
    served.wait_until_idle()
    assert plain.completions.create(model="small", **GREEDY).choices


def test_an_asynchronous_client(hermes):
    import asyncio

    async def ask():
        async with openai.AsyncOpenAI(
            base_url=f"http://127.0.0.1:{hermes.port}/v1", api_key="x"
        ) as client:
            stream = await client.chat.completions.create(
                model="small", messages=[user("hello")], stream=True
            )
            return "".join([one.choices[0].delta.content or "" async for one in stream])

    assert asyncio.run(ask()) == SAYS["hello"]


# LangChain.


@pytest.fixture(scope="module")
def model(hermes):
    langchain_openai = pytest.importorskip("langchain_openai")
    return langchain_openai.ChatOpenAI(
        base_url=f"http://127.0.0.1:{hermes.port}/v1", api_key="x", model="small", max_retries=0
    )


def test_langchain_invokes_and_streams(model):
    assert model.invoke("hello").content == SAYS["hello"]
    assert "".join(one.content for one in model.stream("hello")) == SAYS["hello"]


@pytest.mark.parametrize("choice", [None, "auto", "any", "add"])
def test_langchain_binds_tools(model, choice):
    more = {} if choice is None else {"tool_choice": choice}
    message = model.bind_tools(TOOLS, **more).invoke("add")
    assert [(one["name"], one["args"]) for one in message.tool_calls] == [("add", ARGUMENTS)]


def test_langchain_binds_strict_tools(model):
    function = {**TOOLS[0]["function"]}
    function["parameters"] = {**function["parameters"], "additionalProperties": False}
    tool = {"type": "function", "function": function}
    message = model.bind_tools([tool], strict=True).invoke("add")
    assert message.tool_calls[0]["args"] == ARGUMENTS


def test_langchain_streams_calls(model):
    whole = None
    for one in model.bind_tools(TOOLS).stream("both"):
        whole = one if whole is None else whole + one
    assert [one["name"] for one in whole.tool_calls] == ["add", "now"]


def test_langchain_sends_results_back(model):
    from langchain_core.messages import HumanMessage, ToolMessage

    bound = model.bind_tools(TOOLS)
    messages = [HumanMessage("both")]
    messages.append(bound.invoke(messages))
    for call in messages[-1].tool_calls:
        messages.append(ToolMessage(content=call["name"], tool_call_id=call["id"]))
    assert bound.invoke(messages).content == "It is add and now"


@pytest.mark.parametrize("method", ["json_schema", "json_mode", "function_calling"])
def test_langchain_has_structured_output(model, method):
    import pydantic

    class add(pydantic.BaseModel):  # the tool that is scripted
        """What is said."""

        a: int = 0
        b: str = ""
        name: str = ""
        age: int = 0

    asked = model.with_structured_output(add, method=method)
    found = asked.invoke("add" if method == "function_calling" else "json")
    want = ARGUMENTS if method == "function_calling" else {"name": "Kim", "age": 3}
    assert found == add(**want)
