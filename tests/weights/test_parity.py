"""Imported models compute what Hugging Face transformers does, kept by make_golden.py."""

import functools
from pathlib import Path

import hf_folder
import jax
import jax.numpy as jnp
import numpy as np
import parity_cases
import pytest

from kanana_jax import generate, model
from kanana_jax.generate import unstacked
from kanana_jax.model import presets
from kanana_jax.weights import hf, native

# These turn every switch once; the rest vary them one at a time.
FAST = {"half_rotary_q_lora_yarn", "like_deepseek", "tied", "raw_weights", "all_moe", "yarn_mscale"}
FAST |= {"glm_groups", "llama_llama3_rope", "llama_old_file", "qwen3_tied", "qwen3_yarn"}
GOLDEN = np.load(Path(__file__).with_name("parity_golden.npz"))


def test_there_are_numbers_for_every_case():
    greedy = {f"{name}/greedy" for name in parity_cases.GREEDY}
    assert set(GOLDEN.files) == {*parity_cases.CASES, *greedy}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name in FAST else pytest.mark.long)
        for name in parity_cases.CASES
    ],
)
def test_logits_equal_those_of_transformers(name, tmp_path):
    cfg, weights = _imported(name, tmp_path)

    apply = jax.jit(
        functools.partial(model.apply, cfg, execution=presets.LAPTOP),
        compiler_options={"xla_backend_optimization_level": 0},
    )
    got, _ = apply(weights, model.Inputs.of_tokens(jnp.asarray(parity_cases.TOKENS, jnp.int32)))
    want = GOLDEN[name]
    # The logits are of order 1 to 10; float32 on both sides.
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", parity_cases.GREEDY)
def test_greedy_tokens_over_a_cache_equal_those_of_transformers(name, tmp_path):
    cfg, weights = _imported(name, tmp_path)
    engine = generate.Engine(
        cfg,
        presets.LAPTOP,
        unstacked.from_stacks(cfg, weights),
        decode=str,
        eos_ids=(),
        num_rows=2,
        length=32,
    )
    requests = [
        generate.Request(
            prompt=row[: parity_cases.PROMPT_LENGTH].tolist(),
            max_tokens=parity_cases.NUM_GREEDY,
            sampling=generate.Sampling(temperature=0.0),
        )
        for row in parity_cases.TOKENS
    ]
    found = [answer.ids for answer in generate.answers(engine, requests)]
    np.testing.assert_array_equal(found, GOLDEN[f"{name}/greedy"])


def _imported(name, tmp_path):
    fields = parity_cases.CASES[name]
    source = hf_folder.write(tmp_path / "hf", fields, hf_folder.tensors(fields))
    hf.import_directory(source, tmp_path / "native")
    cfg = native.read_description(tmp_path / "native").cfg
    return cfg, native.restore(tmp_path / "native", native.abstract(cfg, jnp.float32))
