import http.server
import json
import math
import threading
from typing import Any, cast

import pytest

from kanana_jax.config import ConfigError
from kanana_jax.jobs import judges
from kanana_jax.rollouts import transcripts
from kanana_jax.rollouts.environments import drawing, families
from kanana_jax.rollouts.episodes import Episode

(TASK,) = drawing.tasks_of(
    [families.of("small_talk")], ["ko"], seed=0, count=1, heldout=False
)  # fmt: skip


def _said(text, reward: float | None = 1.0):
    return Episode(
        task=TASK,
        seed=0,
        ids=(),
        origins=(),
        logps=(),
        versions=(),
        messages=({"role": "assistant", "content": text},),
        end="answered",
        reward=reward,
    )


@pytest.fixture
def endpoint():
    """A server whose model replies with the length of the answer; and what it was asked."""
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked.append((self.path, body))
            shown = json.loads(body["messages"][0]["content"].partition("\n\n")[2])
            said = shown["answer"][-1]["content"]
            content = f"{len(said)} of 10" if said else "I cannot say."
            reply = json.dumps({"choices": [{"message": {"content": content}}]}).encode()
            self.send_response(200)
            self.end_headers()
            self.wfile.write(reply)

        def log_message(self, format, *args):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/v1", asked
        server.shutdown()


def _judge(**fields):
    nothing = cast(Any, None)
    return judges.of(judges.JudgeConfig(**fields), nothing, nothing, seed=0)


def test_the_rubric_is_the_reward_and_says_nothing_of_what_was_not_judged():
    found = _judge(kind="rubric")([_said("a", 0.25), _said("b", None)])
    assert found[0] == 0.25 and math.isnan(found[1])


def test_an_endpoint_is_asked_for_a_number(endpoint):
    url, asked = endpoint
    found = _judge(kind="endpoint", url=url, model="big")([_said("abc"), _said("")])
    assert found[0] == 3.0 and math.isnan(found[1])
    path, body = asked[0]
    assert path == "/v1/chat/completions" and body["model"] == "big"
    assert TASK.messages[-1]["content"] in body["messages"][0]["content"]


def test_an_endpoint_that_is_not_there_is_told():
    judge = _judge(kind="endpoint", url="http://127.0.0.1:9/v1", model="big")
    with pytest.raises(ConfigError, match="expected a chat completion from"):
        judge([_said("abc")])


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"kind": "reward_model"}, "judge.reward_model"),
        ({"kind": "endpoint", "model": "big"}, "judge.url"),
        ({"kind": "endpoint", "url": "http://x/v1"}, "judge.model"),
    ],
)
def test_a_judge_without_what_it_needs_is_refused(fields, name):
    with pytest.raises(ConfigError, match=name):
        judges.JudgeConfig(**fields)


def test_transcripts_show_the_first_try_of_every_family_and_language(tmp_path):
    assert transcripts.text(tmp_path) == ""
    transcripts.write(tmp_path, [_said("first"), _said("second")])
    shown = transcripts.text(tmp_path)
    assert "assistant: first" in shown and "second" not in shown
    assert shown.startswith("small_talk, ko: answered, reward 1")
