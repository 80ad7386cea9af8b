"""execution.deterministic reaches XLA, the attention kernel and the cache of compiled functions."""

import jax
import jax.numpy as jnp
import pytest
import tiny_jobs
from jax.experimental.compilation_cache import compilation_cache

import pallas_kernels
from kanana_jax import data
from kanana_jax.jobs import compiling
from kanana_jax.train import step_functions


def build(cfg):
    step_functions.build.cache_clear()
    step_functions._shared_by_arms.cache_clear()
    return tiny_jobs.build(cfg)


@pytest.mark.long
def test_every_compiled_function_of_a_step_has_the_option(cfg, corpus, monkeypatch):
    """XLA refuses an option that it does not know, which shows that it was given one."""
    monkeypatch.setattr(step_functions, "_DETERMINISTIC", {"xla_gpu_no_such_option": True})
    built = build(cfg.edited(["execution.deterministic=true"]))
    batch = built.place(data.train_batch(corpus, cfg.data, 0), 8)
    steps = built.steps
    state = steps.init(0)
    for call in (
        lambda: steps.lower().compile(),
        lambda: steps.train(state, batch, 0.01, {}),
        lambda: steps.evaluate(state.weights, batch),
        lambda: steps.logp(state.weights, batch),
        lambda: steps.diagnose(state.weights, state.opt_state),
    ):
        with pytest.raises(jax.errors.JaxRuntimeError, match="xla_gpu_no_such_option"):
            call()


def test_xla_knows_the_option():
    options = step_functions._DETERMINISTIC
    assert jax.jit(lambda x: x + 1, compiler_options=options)(1) == 2


@pytest.mark.parametrize("wanted", [True, False])
@pytest.mark.long
def test_attention_is_told(cfg, wanted, monkeypatch):
    told = []
    attend = pallas_kernels.flash_attention

    def listen(*args, **options):
        told.append(options["deterministic"])
        return attend(*args, **options)

    monkeypatch.setattr(pallas_kernels, "flash_attention", listen)
    build(cfg.edited([f"execution.deterministic={str(wanted).lower()}"])).steps.lower()
    assert set(told) == {wanted}


def test_what_is_compiled_is_kept_for_later_processes(tmp_path, restored_cache):
    jax.config.update("jax_compilation_cache_dir", None)
    compilation_cache.reset_cache()
    jax.jit(lambda x: x * 3)(jnp.ones(2))  # decides, once, that there is no cache
    compiling.keep(tmp_path / "compiled")
    jax.jit(lambda x: jnp.sin(x) * 5)(jnp.ones(2))
    assert list((tmp_path / "compiled").glob("jit__lambda*"))
