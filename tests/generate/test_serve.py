"""The server over real sockets: OpenAI's forms of answers."""

import pytest
from served import GREEDY, LENGTH, NUM_ROWS, text_of

from kanana_jax import generate


def _alone(loaded, prompt, max_tokens, sampling):
    engine = loaded.engine(num_rows=NUM_ROWS, length=LENGTH)
    request = generate.Request(prompt=prompt, max_tokens=max_tokens, sampling=sampling)
    return list(engine.run([request]))


def test_the_model_is_listed_and_found_by_its_name(served):
    listed = served.fetch("/v1/models").body
    assert listed["object"] == "list"
    (model,) = listed["data"]
    assert (model["id"], model["object"]) == ("small", "model")
    assert served.fetch("/v1/models/small").body == model
    assert served.fetch("/health").body["status"] == "ok"


def test_a_completion_is_what_the_engine_gives_alone(served, loaded):
    answer = served.fetch(
        "/v1/completions",
        {"model": "small", "prompt": "abc", "max_tokens": 9, "seed": 5, "temperature": 0.9,
         "top_p": 0.9, "top_k": 50, "min_p": 0.01},
    )  # fmt: skip
    how = generate.Sampling(temperature=0.9, top_p=0.9, top_k=50, min_p=0.01, seed=5)
    pieces = _alone(loaded, loaded.prompt_ids("abc"), 9, how)
    assert answer.status == 200
    assert answer.body["object"] == "text_completion"
    (choice,) = answer.body["choices"]
    assert choice["text"] == "".join(piece.text for piece in pieces)
    assert choice["finish_reason"] == pieces[-1].finish_reason
    num = len(pieces)
    assert answer.body["usage"] == {
        "prompt_tokens": 4,
        "completion_tokens": num,
        "total_tokens": 4 + num,
    }


def test_a_stream_has_the_same_text_and_counts_when_asked(served):
    whole = served.fetch("/v1/completions", GREEDY)
    stream = GREEDY | {"stream": True, "stream_options": {"include_usage": True}}
    *chunks, usage, done = served.fetch("/v1/completions", stream).body
    assert done == "[DONE]"
    assert len(chunks) > 1
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == text_of(whole)
    reasons = [chunk["choices"][0]["finish_reason"] for chunk in chunks]
    assert reasons == [None] * (len(chunks) - 1) + ["length"]
    assert (usage["choices"], usage["usage"]) == ([], whole.body["usage"])
    assert len({chunk["id"] for chunk in chunks}) == 1


def test_usage_counts_every_prompt_and_every_choice(served):
    ask = GREEDY | {"prompt": [[97, 98], [99, 100, 101]], "n": 2, "max_tokens": 4}
    whole = served.fetch("/v1/completions", ask).body["usage"]
    stream = ask | {"stream": True, "stream_options": {"include_usage": True}}
    *_, usage, _ = served.fetch("/v1/completions", stream).body
    # As OpenAI's: a prompt counts once, whatever its number of choices.
    assert whole == usage["usage"]
    assert whole == {"prompt_tokens": 5, "completion_tokens": 16, "total_tokens": 21}


def test_a_chat_goes_through_the_template(served):
    ids = list(b"system:S;user:hello;")
    want = served.fetch("/v1/completions", GREEDY | {"prompt": ids})
    chat = {
        "model": "small",
        "messages": [
            {"role": "system", "content": "S"},
            {"role": "user", "content": [{"type": "text", "text": "hello"}]},
        ],
        "temperature": 0,
        "max_completion_tokens": 12,
    }
    answer = served.fetch("/v1/chat/completions", chat).body
    assert answer["object"] == "chat.completion"
    message = answer["choices"][0]["message"]
    assert (message["role"], message["content"]) == ("assistant", text_of(want))
    assert answer["usage"]["prompt_tokens"] == len(ids)
    first, *rest, done = served.fetch("/v1/chat/completions", chat | {"stream": True}).body
    assert first["object"] == "chat.completion.chunk"
    assert first["choices"][0]["delta"]["role"] == "assistant"
    assert "".join(x["choices"][0]["delta"].get("content", "") for x in rest) == text_of(want)
    assert done == "[DONE]"


def test_choices_have_seeds_of_their_own_that_repeat(served):
    ask = {"prompt": ["ab", "cd"], "n": 2, "seed": 7, "max_tokens": 8}
    answer = served.fetch("/v1/completions", ask)
    assert [choice["index"] for choice in answer.body["choices"]] == [0, 1, 2, 3]
    texts = [text_of(answer, place) for place in range(4)]
    assert len(set(texts)) == 4
    again = served.fetch("/v1/completions", ask)
    assert [text_of(again, place) for place in range(4)] == texts
    alone = served.fetch("/v1/completions", {"prompt": "cd", "seed": 7 + 3, "max_tokens": 8})
    assert text_of(alone) == texts[3]
    without = [served.fetch("/v1/completions", {"prompt": "ab", "max_tokens": 8}) for _ in "12"]
    assert text_of(without[0]) != text_of(without[1])


def test_a_stop_string_ends_the_text_before_it(served):
    text = text_of(served.fetch("/v1/completions", GREEDY))
    answer = served.fetch("/v1/completions", GREEDY | {"stop": [text[4:6]]})
    assert text_of(answer) == text[: text.index(text[4:6])]
    assert answer.body["choices"][0]["finish_reason"] == "stop"


def test_a_prompt_that_spells_special_tokens_has_them(served, loaded):
    plain = served.fetch("/v1/completions", GREEDY)
    marked = served.fetch("/v1/completions", GREEDY | {"prompt": "<|bos|>abc"})
    assert text_of(marked) == text_of(plain)
    assert marked.body["usage"] == plain.body["usage"]
    assert loaded.prompt_ids("a<|eos|><|bos|>") == [256, 97, 257, 256]


@pytest.mark.long
def test_its_own_message_may_be_sent_back(served):
    user = {"role": "user", "content": "hi"}
    ask = {"temperature": 0, "max_tokens": 4}
    first = served.fetch("/v1/chat/completions", ask | {"messages": [user]})
    own = first.body["choices"][0]["message"]
    with_own = served.fetch("/v1/chat/completions", ask | {"messages": [user, own, user]})
    plain = {"role": "assistant", "content": own["content"]}
    with_plain = served.fetch("/v1/chat/completions", ask | {"messages": [user, plain, user]})
    assert with_own.status == 200
    assert with_own.body["choices"] == with_plain.body["choices"]
