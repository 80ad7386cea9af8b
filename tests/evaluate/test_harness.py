"""lm-evaluation-harness itself runs a local task on a trained model, in its own environment."""

import json
import os
import subprocess
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


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """What the harness's command writes for three tasks, one of each kind of request."""
    python = Path(os.environ.get("HARNESS_PYTHON", ROOT / ".venv-harness/bin/python"))
    if not python.exists():
        pytest.skip(f"no lm_eval: set HARNESS_PYTHON, or make {python} (BUILD.md)")
    folder = tmp_path_factory.mktemp("harness")
    (folder / "docs.jsonl").write_text("\n".join(map(json.dumps, DOCS)))
    data = {"data_files": {"test": str(folder / "docs.jsonl")}}
    for name, fields in TASKS.items():
        task = {"task": name, "dataset_path": "json", "dataset_kwargs": data, "test_split": "test"}
        (folder / f"{name}.yaml").write_text(json.dumps(task | fields))  # JSON is YAML
    command = [python, "-m", "kanana_jax.evaluate.harness", "run", "--model", "kanana_jax"]
    command += ["--model_args", f"checkpoint={TRAINED},dtype=float32,length=64"]
    command += ["--tasks", ",".join(TASKS), "--include_path", folder, "--batch_size", "2"]
    command += ["--output_path", folder / "out", "--log_samples"]
    offline = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "cache"), "JAX_PLATFORMS": "cpu"}
    answer = subprocess.run(
        command, cwd=ROOT, env=os.environ | offline, capture_output=True, text=True, timeout=500
    )
    assert answer.returncode == 0, answer.stderr[-3000:]
    (path,) = (folder / "out").rglob("results_*.json")
    samples = {}
    for file in (folder / "out").rglob("samples_*.jsonl"):
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        samples[file.name.split("_")[1]] = sorted(lines, key=lambda line: line["doc_id"])
    return json.loads(path.read_text())["results"], samples


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
