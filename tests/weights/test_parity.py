"""Logits of imported models equal those of Hugging Face transformers, kept by make_golden.py."""

import functools
from pathlib import Path

import hf_folder
import jax
import jax.numpy as jnp
import numpy as np
import parity_cases
import pytest

from kanana_jax import model
from kanana_jax.model import presets
from kanana_jax.weights import hf, native

# These turn every switch once; the rest vary them one at a time.
FAST = {"half_rotary_q_lora_yarn", "like_deepseek", "tied", "raw_weights", "all_moe", "yarn_mscale"}
GOLDEN = np.load(Path(__file__).with_name("parity_golden.npz"))


def test_there_are_logits_for_every_case():
    assert set(GOLDEN.files) == set(parity_cases.CASES)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name in FAST else pytest.mark.slow)
        for name in parity_cases.CASES
    ],
)
def test_logits_equal_those_of_transformers(name, tmp_path):
    fields = parity_cases.CASES[name]
    source = hf_folder.write(tmp_path / "hf", fields, hf_folder.tensors(fields))
    hf.import_directory(source, tmp_path / "native")
    cfg = native.read_description(tmp_path / "native").cfg
    weights = native.restore(tmp_path / "native", native.abstract(cfg, jnp.float32))

    apply = jax.jit(
        functools.partial(model.apply, cfg, execution=presets.LAPTOP),
        compiler_options={"xla_backend_optimization_level": 0},
    )
    got, _ = apply(weights, model.Inputs.of_tokens(jnp.asarray(parity_cases.TOKENS, jnp.int32)))
    want = GOLDEN[name]
    # The logits are of order 1 to 10; float32 on both sides.
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-4)
