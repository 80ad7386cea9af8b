"""Rates and initial scales at other widths, class by class."""

import dataclasses
import math

import jax
import numpy as np
import optax
import pytest

from kanana_jax import config, model, optim
from kanana_jax.model import presets
from kanana_jax.train import optimizers, transfer

pytestmark = pytest.mark.slow

BASE = presets.kanana_2_width(256)
WIDE = presets.kanana_2_width(2048)  # every width and count of heads and experts times 8


def factors(rule, shape=WIDE, base_width=256, **options):
    """The factor of every leaf by the last two names of its path; equal in all parts."""
    cfg = config.OptimizerConfig(transfer=rule, transfer_base_width=base_width, **options)
    tree = transfer.rate_factors(cfg, shape, optimizers.polar_specs(cfg, shape))
    flat, _ = jax.tree.flatten_with_path(tree)
    found = {}
    for path, one in flat:
        name = "/".join(str(key.key) for key in path)
        assert len(set(one.parts)) == 1, name
        found[name] = one.parts[0]
    return found


def exponents(rule, **options):
    return {name: round(math.log(x, 8), 3) for name, x in factors(rule, **options).items()}


# arXiv:2608.20061, Table 2; the column of the spectral rule is derived in kanana_jax/train/transfer
TABLE = {
    "embed": {"kakao": 0, "spectral": 0, "half": 0},
    "head": {"kakao": 0, "spectral": -1, "half": 0},
    "final_norm": {"kakao": 0, "spectral": 0, "half": 0},
    "moe_layers/attention_norm": {"kakao": 0, "spectral": 0, "half": 0},
    "moe_layers/attention/wq": {"kakao": -1, "spectral": -0.5, "half": -0.5},
    "moe_layers/attention/wo": {"kakao": -1, "spectral": -0.5, "half": -0.5},
    "moe_layers/mlp/router": {"kakao": -1, "spectral": -1, "half": -0.5},
    "moe_layers/mlp/w_down": {"kakao": 0, "half": -0.5},
    "moe_layers/attention/wkv_b": {"kakao": 0, "spectral": 0, "half": -0.5},
    "moe_layers/mlp/w_gate_up": {"kakao": -1, "half": -0.5},
    "moe_layers/attention/wkv_a": {"kakao": -1, "half": -0.5},
    "dense_layers/mlp/w_down": {"kakao": 0, "spectral": 0.5, "half": -0.5},
    "dense_layers/mlp/w_gate_up": {"kakao": -1, "spectral": -0.5, "half": -0.5},
}


@pytest.mark.parametrize("rule", ["kakao", "spectral", "half"])
def test_every_class_has_the_exponent_of_its_rule(rule):
    found = exponents(rule)
    expected = {name: row[rule] for name, row in TABLE.items() if rule in row}
    assert {name: found[name] for name in expected} == expected


def test_experts_and_latents_change_their_exponent_where_the_width_passes_theirs():
    """Above 768 an expert's first matrix is the wider side: -1, and 0 for the second."""
    shape = presets.family(WIDE, 4096)
    found = {k: math.log2(x) for k, x in factors("spectral", shape, base_width=2048).items()}
    for name, exponent in (("mlp/w_gate_up", -1), ("mlp/w_down", 0), ("attention/wkv_a", -1)):
        np.testing.assert_allclose(found[f"moe_layers/{name}"], exponent, atol=1e-6)


def test_a_split_by_heads_decides_the_spectral_rule_of_queries():
    assert exponents("spectral", split="heads")["moe_layers/attention/wq"] == pytest.approx(
        math.log(math.sqrt(192 / 2048) / math.sqrt(2048), 8)
        - math.log(math.sqrt(192 / 256) / math.sqrt(256), 8),
        abs=1e-3,
    )


def test_a_router_of_muon_and_matrices_of_adamw_have_rules_of_their_own():
    assert exponents("spectral", router="muon")["moe_layers/mlp/router"] == -0.5
    of_adamw = exponents("spectral", name="adamw")
    assert of_adamw["moe_layers/attention/wq"] == -1 and of_adamw["moe_layers/mlp/w_down"] == 0


@pytest.mark.parametrize("rule", ["kakao", "spectral", "half"])
def test_nothing_changes_at_the_base_width(rule):
    assert set(factors(rule, BASE).values()) == {1.0}


@pytest.mark.long
def test_the_rate_of_a_leaf_is_its_factor_times_the_rate():
    """Updates with and without a rule differ by the factors alone."""
    tiny = dataclasses.replace(presets.tiny(64), num_layers=1, num_dense_layers=0)
    shape = presets.family(tiny, 64)
    params = jax.jit(lambda: model.init_params(shape, jax.random.key(0)))()
    logits = np.zeros((1, shape.num_heads), np.float32)

    def update(cfg):
        made = optimizers.make(cfg, shape, optax.constant_schedule(0.1))

        def once(params):
            return made.update(params, made.init(params), params, max_logits=logits)[0]

        return jax.jit(once)(params)

    plain = config.OptimizerConfig(
        name="muon", polar="newton_schulz", polar_dtype="float32", polar_steps=1
    )
    moved = dataclasses.replace(plain, transfer="spectral", transfer_base_width=32)
    each = transfer.rate_factors(moved, shape, optimizers.polar_specs(moved, shape))
    expected = jax.tree.map(lambda u, f: u * f.parts[0], update(plain), each)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), update(moved), expected)


@pytest.mark.parametrize(
    ("rule", "head"), [("none", 1.0), ("kakao", 1.0), ("spectral", 0.5), ("half", 1.0)]
)
@pytest.mark.long
def test_fresh_weights_have_the_scale_of_their_fan_in(rule, head):
    shape = dataclasses.replace(presets.tiny(64), num_layers=2)
    weights = jax.jit(lambda: model.init(shape, jax.random.key(0)))()
    found = transfer.scaled(weights, transfer.Initial(rule, 64 if rule != "none" else 0), shape)
    ratio = jax.tree.map(lambda a, b: float((a / b).mean()), found.params, weights.params)
    matrix = 1.0 if rule == "none" else math.sqrt(0.5)
    layer = ratio["moe_layers"]
    got = [layer["attention"]["wq"], layer["mlp"]["router"], layer["mlp"]["w_gate_up"]]
    np.testing.assert_allclose(got, matrix, rtol=1e-5)
    got = [layer["mlp"]["w_down"], layer["attention"]["wkv_b"], ratio["embed"]]
    np.testing.assert_allclose(got, 1.0, rtol=1e-5)
    np.testing.assert_allclose(ratio["head"], head, rtol=1e-5)


def test_parts_of_one_matrix_can_have_factors_of_their_own():
    spec = optim.MatrixSpec(split_axis=1, split_sizes=(2, 3))
    scale = optim.scale_by_factors({"w": optim.RateFactors((2.0, 3.0), spec)})
    found, _ = scale.update({"w": np.ones((4, 5), np.float32)}, scale.init({}))
    np.testing.assert_array_equal(found["w"], [[2, 2, 3, 3, 3]] * 4)
    with pytest.raises(ValueError, match="2 positive numbers"):
        optim.RateFactors((1.0,), spec)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"transfer": "kakao"}, "go together; got kakao and 0"),
        ({"transfer_base_width": 64}, "go together; got none and 64"),
        ({"transfer": "half", "transfer_base_width": 64, "name": "normuon"}, "for adamw, muon"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(changes, message):
    with pytest.raises(config.ConfigError, match=message):
        config.OptimizerConfig(**changes)


def test_adapters_have_no_rule():
    cfg = config.OptimizerConfig(name="adamw", transfer="kakao", transfer_base_width=64)
    lora = config.LoraConfig(rank=2)
    with pytest.raises(config.ConfigError, match=r"must be none with lora\.rank, got kakao"):
        optimizers.make(cfg, presets.tiny(64), optax.constant_schedule(0.1), lora)


def test_a_base_width_that_the_family_lacks_is_refused():
    cfg = config.OptimizerConfig(transfer="kakao", transfer_base_width=100)
    with pytest.raises(config.ConfigError, match="take a width that makes it one"):
        optimizers.make(cfg, presets.tiny(64), optax.constant_schedule(0.1))
