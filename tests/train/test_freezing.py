"""Parts that are frozen stay to the bit, and the others move as they would alone."""

import dataclasses
import types

import jax
import numpy as np
import pytest
import tiny_jobs

from kanana_jax import config, model
from kanana_jax.train import freezing, optimizers

pytestmark = pytest.mark.slow

VISION = config.VisionConfig(
    patch_size=2,
    num_channels=1,
    hidden_size=8,
    num_layers=1,
    num_heads=1,
    intermediate_size=8,
    position_grid=2,
)


AUDIO = config.AudioConfig(hidden_size=8, num_layers=1, num_heads=1, intermediate_size=8)


def _cfg(tmp_path, encoders=types.MappingProxyType({"vision": VISION}), **changes):
    base = tiny_jobs.pretraining(tmp_path / "none.txt")
    shape = dataclasses.replace(base.model, vocab_size=20, **encoders)
    return dataclasses.replace(base, model=shape, **changes)


@pytest.mark.parametrize(
    ("encoders", "frozen"),
    [
        ({"vision": VISION}, ("encoder", "decoder")),
        pytest.param({"vision": VISION}, ("projector",), marks=pytest.mark.long),
        pytest.param({"audio": AUDIO}, ("encoder",), marks=pytest.mark.long),
        ({"audio": AUDIO}, ("projector", "decoder")),
    ],
)
def test_what_is_frozen_stays_to_the_bit_and_all_else_moves(encoders, frozen, tmp_path):
    cfg = _cfg(tmp_path, encoders)
    optimizer = dataclasses.replace(cfg.optimizer, frozen=frozen, weight_decay=10.0, tau=0.1)
    made = optimizers.make(optimizer, cfg.model, lambda step: 0.1)
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda x: rng.standard_normal(x.shape, np.float32),
        jax.eval_shape(lambda: model.init_params(cfg.model, jax.random.key(0))),
    )
    # So large that QK-Clip acts on every head.
    max_logits = np.full((2, cfg.model.num_heads), 9.0, np.float32)
    update = jax.jit(
        lambda grads, params: made.update(grads, made.init(params), params, max_logits=max_logits)[
            0
        ],
        compiler_options={"xla_backend_optimization_level": 0},
    )
    updates = update(params, params)
    for path, x in jax.tree_util.tree_flatten_with_path(updates)[0]:
        assert np.any(x) == (freezing.part_of(path) not in frozen), path
    parts = {freezing.part_of(path) for path, _ in jax.tree_util.tree_flatten_with_path(params)[0]}
    assert parts == {"encoder", "projector", "decoder"}


def test_a_frozen_decoder_has_a_bias_that_does_not_move(tmp_path):
    frozen = config.OptimizerConfig(frozen=("decoder",))
    with pytest.raises(config.ConfigError, match="router_bias_rate must be 0 where"):
        _cfg(tmp_path, optimizer=frozen, train=config.TrainConfig(router_bias_rate=0.1))
    still = config.TrainConfig(router_bias_rate=0.0)
    assert _cfg(tmp_path, optimizer=frozen, train=still).optimizer.frozen == ("decoder",)


def test_freezing_is_for_models_with_an_encoder_of_which_something_is_trained(tmp_path):
    everything = config.OptimizerConfig(frozen=("encoder", "projector", "decoder"))
    with pytest.raises(config.ConfigError, match="some part is trained; got encoder, projector"):
        _cfg(tmp_path, optimizer=everything)
    text = dataclasses.replace(_cfg(tmp_path).model, vision=None)
    with pytest.raises(config.ConfigError, match=r"with model\.vision or model\.audio"):
        dataclasses.replace(
            _cfg(tmp_path), model=text, optimizer=config.OptimizerConfig(frozen=("encoder",))
        )
