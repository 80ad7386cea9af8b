"""A trained model goes out to transformers and comes back, and all three write the same text."""

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from kanana_jax import convert, generate
from kanana_jax.weights import hf_files

HERE = Path(__file__).parent
EXPORTED = HERE / "trained"
GREEDY = json.loads((EXPORTED / "greedy.json").read_text())  # by greedy_by_transformers.py


def _greedy(folder):
    """64 tokens after each prompt; the model's end counts as a token like any other."""
    loaded = generate.load(folder, "float32")._replace(eos_ids=())
    engine = loaded.engine(num_rows=3, length=96)
    how = generate.Sampling(temperature=0)
    requests = [
        generate.Request(prompt=loaded.prompt_ids(prompt), max_tokens=64, sampling=how)
        for prompt in GREEDY
    ]
    tokens = {prompt: [] for prompt in GREEDY}
    for piece in engine.run(requests):
        tokens[list(GREEDY)[piece.request]].append(piece.token)
    return tokens


@pytest.fixture(scope="module")
def exported_again(tmp_path_factory):
    """Converted to a model folder and exported from there, in float32."""
    folder = tmp_path_factory.mktemp("trained")
    convert.main([f"--from-hf={EXPORTED}", f"--to={folder / 'native'}"])
    convert.main([f"--from={folder / 'native'}", f"--to-hf={folder / 'hf'}", "--dtype=float32"])
    return folder


@pytest.mark.slow
def test_the_tokens_are_those_of_transformers(exported_again):
    assert {len(tokens) for tokens in GREEDY.values()} == {64}
    assert len({tuple(tokens) for tokens in GREEDY.values()}) == 3
    assert _greedy(EXPORTED) == GREEDY
    assert _greedy(exported_again / "native") == GREEDY


def test_an_export_of_the_import_has_the_same_numbers(exported_again):
    before, after = (hf_files.read_headers(x) for x in (EXPORTED, exported_again / "hf"))
    assert before.keys() == after.keys()
    for name, entry in before.items():
        np.testing.assert_array_equal(entry.read().astype(np.float32), after[name].read(), name)


@pytest.mark.parity
def test_transformers_reads_the_export_and_writes_the_same(exported_again):
    python = Path(os.environ.get("PARITY_PYTHON", HERE.parents[1] / ".venv-parity/bin/python"))
    if not python.exists():
        pytest.skip(f"no torch and transformers: set PARITY_PYTHON, or make {python} (BUILD.md)")
    command = [python, HERE / "greedy_by_transformers.py", exported_again / "hf"]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert answer.returncode == 0, answer.stderr
    assert json.loads(answer.stdout) == _greedy(exported_again / "hf")
