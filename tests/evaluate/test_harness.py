"""lm-evaluation-harness itself runs a local task on a trained model, in its own environment."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from kanana_jax import generate
from kanana_jax.evaluate import scoring

ROOT = Path(__file__).parents[2]
TRAINED = ROOT / "tests" / "generate" / "trained"
DOCS = [
    {"ctx": "python -m kanana", "choices": ["_jax", "zzzz"], "gold": 0, "next": "_jax"},
    {"ctx": "## Ins", "choices": ["qqqq", "tall"], "gold": 1, "next": "i"},
]
TASKS = {
    "choice": {
        "output_type": "multiple_choice",
        "doc_to_text": "{{ctx}}",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "{{gold}}",
        "target_delimiter": "",
        "metric_list": [{"metric": "acc"}],
    },
    "rolling": {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{ctx}}",
        "metric_list": [{"metric": "bits_per_byte"}],
    },
    "until": {
        "output_type": "generate_until",
        "doc_to_text": "{{ctx}}",
        "doc_to_target": "{{next}}",
        "generation_kwargs": {"until": [".", "g"], "max_gen_toks": 4, "do_sample": False},
        "metric_list": [{"metric": "exact_match"}],
    },
}


class Harness:
    """The harness's command with three tasks, one of each kind of request."""

    def __init__(self, python, folder):
        self._python, self._folder = python, folder
        (folder / "docs.jsonl").write_text("\n".join(map(json.dumps, DOCS)))
        data = {"data_files": {"test": str(folder / "docs.jsonl")}}
        for name, fields in TASKS.items():
            task = {"task": name, "dataset_path": "json", "dataset_kwargs": data}
            task |= {"test_split": "test"} | fields
            (folder / f"{name}.yaml").write_text(json.dumps(task))  # JSON is YAML

    def run(self, module, model, model_args, *more, tasks=TASKS):
        """(results, samples by task) that the command writes."""
        out = self._folder / f"out-{model}-{len(more)}"
        command = [self._python, "-m", module, "run", "--model", model]
        command += ["--model_args", model_args, "--batch_size", "2", "--log_samples", *more]
        command += ["--tasks", ",".join(tasks), "--include_path", self._folder]
        command += ["--output_path", out]
        offline = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(self._folder / "cache")}
        offline |= {"JAX_PLATFORMS": "cpu", "OPENAI_API_KEY": "x"}
        answer = subprocess.run(
            command, cwd=ROOT, env=os.environ | offline, capture_output=True, text=True, timeout=500
        )
        assert answer.returncode == 0, answer.stderr[-3000:]
        (path,) = out.rglob("results_*.json")
        samples = {}
        for file in out.rglob("samples_*.jsonl"):
            lines = [json.loads(line) for line in file.read_text().splitlines()]
            samples[file.name.split("_")[1]] = sorted(lines, key=lambda line: line["doc_id"])
        return json.loads(path.read_text())["results"], samples


@pytest.fixture(scope="module")
def harness(tmp_path_factory):
    python = Path(os.environ.get("HARNESS_PYTHON", ROOT / ".venv-harness/bin/python"))
    if not python.exists():
        pytest.skip(f"no lm_eval: set HARNESS_PYTHON, or make {python} (BUILD.md)")
    return Harness(python, tmp_path_factory.mktemp("harness"))


@pytest.fixture(scope="module")
def results(harness):
    model_args = f"checkpoint={TRAINED},dtype=float32,length=64"
    return harness.run("kanana_jax.evaluate.harness", "kanana_jax", model_args)


@pytest.fixture(scope="module")
def scorer():
    return scoring.Scorer(generate.load(TRAINED, "float32"), num_rows=2, length=64)


def _loglikelihood(scorer, context, continuation):
    pair = scoring.Pair([256, *context.encode()], list(continuation.encode()))
    ((_, score),) = scorer.score([pair])
    return score.loglikelihood


@pytest.mark.parity
def test_multiple_choice_is_decided_by_our_log_likelihoods(results, scorer):
    found, samples = results
    assert found["choice"]["acc,none"] == 1.0
    for doc, sample in zip(DOCS, samples["choice"], strict=True):
        got = [float(answer[0][0]) for answer in sample["resps"]]
        want = [_loglikelihood(scorer, doc["ctx"], choice) for choice in doc["choices"]]
        np.testing.assert_allclose(got, want, rtol=1e-5)


@pytest.mark.parity
def test_the_rolling_loglikelihood_counts_every_token(results, scorer):
    found, _ = results
    bits = -sum(_loglikelihood(scorer, "", doc["ctx"]) for doc in DOCS) / np.log(2)
    num_bytes = sum(len(doc["ctx"]) for doc in DOCS)
    np.testing.assert_allclose(found["rolling"]["bits_per_byte,none"], bits / num_bytes, rtol=1e-5)


@pytest.mark.parity
def test_generation_is_greedy_and_stops(results):
    found, samples = results
    assert [sample["resps"][0][0] for sample in samples["until"]] == ["_jax", "i"]
    assert found["until"]["exact_match,none"] == 1.0


@pytest.fixture(scope="module")
def door(tmp_path_factory):
    """(folder, URL) of the model behind the server, its prompts without a beginning token."""
    folder = tmp_path_factory.mktemp("door") / "small"
    shutil.copytree(TRAINED, folder)
    (folder / "tokenizer_config.json").write_text(json.dumps({"add_bos_token": False}))
    template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    (folder / "chat_template.jinja").write_text(template)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "kanana_jax.generate.serve", f"--checkpoint={folder}"]
    command += [f"--port={port}", "--length=64", "--batch-size=4", "--dtype=float32"]
    server = subprocess.Popen(command, cwd=ROOT, env=os.environ | {"JAX_PLATFORMS": "cpu"})
    try:
        while True:
            assert server.poll() is None
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                time.sleep(0.5)
        yield folder, f"http://127.0.0.1:{port}/v1"
    finally:
        server.terminate()
        server.wait(60)


def _texts(samples):
    """What was generated for each request."""
    return [answer[0] for sample in samples for answer in sample["resps"]]


def _scores(samples):
    """(log-likelihood, whether greedy) of each request; a rolling one has the number alone."""
    firsts = [answer[0] for sample in samples for answer in sample["resps"]]
    pairs = [one if isinstance(one, list) else [one, "none"] for one in firsts]
    return [float(score) for score, _ in pairs], [str(is_greedy) for _, is_greedy in pairs]


@pytest.mark.parity
def test_the_harness_finds_the_same_through_the_server(harness, door):
    folder, url = door
    own = f"checkpoint={folder},dtype=float32,length=64"
    _, want = harness.run("kanana_jax.evaluate.harness", "kanana_jax", own, "--seed=1")
    through = f"model=small,base_url={url}/completions,num_concurrent=4,max_length=63"
    _, got = harness.run("lm_eval", "local-completions", through)
    assert _texts(got["until"]) == _texts(want["until"])
    for name in ("choice", "rolling"):
        (scores, are_greedy), wanted = _scores(got[name]), _scores(want[name])
        # Sums of float32 in other orders.
        np.testing.assert_allclose(scores, wanted[0], rtol=1e-5, atol=1e-5, err_msg=name)
        assert are_greedy == wanted[1]


@pytest.mark.parity
def test_chats_say_the_same_through_the_server(harness, door):
    folder, url = door
    own = f"checkpoint={folder},dtype=float32,length=64"
    chat = ("--apply_chat_template", "--seed=1")
    _, want = harness.run("kanana_jax.evaluate.harness", "kanana_jax", own, *chat, tasks=["until"])
    through = f"model=small,base_url={url}/chat/completions"
    _, got = harness.run("lm_eval", "local-chat-completions", through, *chat, tasks=["until"])
    assert _texts(got["until"]) == _texts(want["until"]) != [""] * len(DOCS)
