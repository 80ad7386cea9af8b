"""The trainer finds what the sampler drew as likely as the sampler did, and routes it alike."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_engine

from kanana_jax import config, model
from kanana_jax.batch import Batch
from kanana_jax.generate import Request, Sampling, answers
from kanana_jax.model import presets
from kanana_jax.train import forward

BFLOAT16 = config.ExecutionConfig(compute_dtype="bfloat16")


def _requests(cfg, count):
    """Requests of one length, as in a batch: prompts of more than one chunk, each twice."""
    rng = np.random.default_rng(4)
    prompts = [rng.integers(0, cfg.vocab_size, 11).tolist() for _ in range(count // 2)]
    return [
        Request(prompt=prompt, max_tokens=30, sampling=Sampling(seed=seed))
        for seed, prompt in enumerate(prompts * 2)
    ]


def _batch(requests, found, *, replay):
    tokens = np.array([[*one.prompt, *got.ids] for one, got in zip(requests, found, strict=True)])
    batch = Batch.of_tokens(tokens.astype(np.int32))
    return batch._replace(routes=_routes(found)) if replay else batch


def _routes(found):
    return np.stack([np.asarray(one.routes) for one in found])


def _trainer(cfg, stacks, batch, execution):
    """Log-probabilities and routes, (B, S) and (B, S, L, K)."""

    @jax.jit
    def both(stacks, batch):
        logp_BS = forward.log_probabilities(stacks, batch, cfg=cfg, execution=execution)
        _, aux = model.hidden_states(cfg, stacks, batch.inputs, execution=execution)
        return logp_BS, jnp.moveaxis(aux.routes, 0, 2)

    return jax.device_get(both(stacks, batch))


@pytest.fixture(scope="module")
def drawn(cfg, weights):
    assert cfg.num_moe_layers > 1
    requests = _requests(cfg, 6)
    return requests, answers(small_engine.make(cfg, weights), requests)


@pytest.mark.slow
@pytest.mark.parametrize("replay", [pytest.param(False, marks=pytest.mark.long), True])
def test_trainer_and_sampler_agree_in_float32(cfg, stacks, drawn, replay):
    assert np.abs(stacks.buffers["router_bias"]).max() > 0.1
    batch = _batch(*drawn, replay=replay)
    logp_BS, routes_BSLK = _trainer(cfg, stacks, batch, presets.LAPTOP)
    sampled_BS = np.array([one.logps for one in drawn[1]])
    np.testing.assert_allclose(logp_BS[:, -30:], sampled_BS, rtol=0, atol=5e-6)
    assert sampled_BS.std() > 0.3
    np.testing.assert_array_equal(routes_BSLK, [one.routes for one in drawn[1]])


@pytest.mark.slow
def test_other_routes_than_those_replayed_would_be_seen(cfg, stacks, drawn):
    batch = _batch(*drawn, replay=True)
    moved = batch._replace(routes=(batch.routes + 1) % cfg.num_experts)
    logp_BS, routes_BSLK = _trainer(cfg, stacks, moved, presets.LAPTOP)
    sampled_BS = np.array([one.logps for one in drawn[1]])
    assert np.abs(logp_BS[:, -30:] - sampled_BS).max() > 0.01
    np.testing.assert_array_equal(routes_BSLK, moved.routes)


def _k3(logp_BS, sampled_BS):
    """An estimate of the divergence of the two, which is never negative (Schulman, 2020)."""
    d_BS = logp_BS[:, -sampled_BS.shape[1] :] - sampled_BS
    return np.mean(np.exp(d_BS) - 1 - d_BS)


@pytest.mark.long
def test_replay_brings_a_bfloat16_trainer_closer_to_its_sampler(cfg, stacks):
    requests = _requests(cfg, 32)
    engine = small_engine.make(cfg, stacks, execution=BFLOAT16, num_rows=16)
    found = answers(engine, requests)
    sampled_BS = np.array([one.logps for one in found])
    k3 = []
    for replay in (False, True):
        batch = _batch(requests, found, replay=replay)
        logp_BS, routes_BSLK = _trainer(cfg, stacks, batch, BFLOAT16)
        k3.append(_k3(logp_BS, sampled_BS))
        num_other = (routes_BSLK != _routes(found)).sum()
        print(f"replay={replay}: K3 {k3[-1]:.2e}, other experts {num_other}")
        assert (num_other == 0) == replay
    assert k3[1] < k3[0] / 4
