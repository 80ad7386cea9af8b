"""Every optimizer of the library on one little tree, with one compiled step for each.

Letters: L layers, D inputs, H heads, K head columns.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from kanana_jax import optim

L, D, H, K = 2, 8, 2, 4
_MATRIX = optim.MatrixSpec(batch=(0,), rows=(1,), cols=(2, 3))
_PER_HEAD = optim.MatrixSpec(batch=(0, 2), rows=(1,), cols=(3,))
_CLIP = optim.QKClipSpec(layer_axis=0, head_axis=2, segments=((K, 0.5),))
SPECS = {"bias": None, "wk": _MATRIX, "wq": _MATRIX}
CLIP_SPECS = {"bias": None, "wk": _CLIP, "wq": _CLIP}
MAX_LOGITS = jnp.array([[10.0, 200.0], [20.0, 30.0]])
# Small test matrices in float32: bfloat16 has its own tests.
_EXACT = {"compute_dtype": jnp.float32, "weight_decay": 0.0}


def _muon(lr, **options):
    return optim.muon(lr, SPECS, **(_EXACT | options))


def _muonclip(lr, tau=100.0, **options):
    return optim.muonclip(lr, SPECS, CLIP_SPECS, tau=tau, **(_EXACT | options))


def _adamclip(lr):
    return optax.chain(optim.adamw(lr, weight_decay=0.0), optim.qk_clip(100.0, CLIP_SPECS))


def _averaged(lr):
    return optax.chain(_muon(lr), optim.weight_average(0.6, interval_steps=2))


def _partitioned(lr):
    rules = [("w[qk]", "fast"), ("bias", "slow")]
    fast = optim.muon(lr, {"wq": _MATRIX, "wk": _MATRIX, "bias": optax.MaskedNode()}, **_EXACT)
    return optim.partition({"fast": fast, "slow": optim.adamw(lr, weight_decay=0.0)}, rules)


OPTIMIZERS = {
    "adamw": lambda lr: optim.adamw(lr, weight_decay=0.0),
    "adamw_with_decay": lambda lr: optim.adamw(lr, weight_decay=0.01),
    "adamclip": _adamclip,
    "muon_polar_express_5": _muon,
    "muon_polar_express_8": lambda lr: _muon(lr, schedule=optim.POLAR_EXPRESS_8),
    "muon_newton_schulz": lambda lr: _muon(lr, schedule=optim.newton_schulz()),
    "muon_cans": lambda lr: _muon(lr, schedule=optim.cans()),
    "muon_modded": lambda lr: _muon(lr, schedule=optim.modded_nanogpt()),
    "muon_deepseek_v4": lambda lr: _muon(lr, schedule=optim.deepseek_v4()),
    "muon_turbo": lambda lr: _muon(lr, schedule=optim.turbo_muon()),
    "muon_bfloat16": lambda lr: _muon(lr, compute_dtype=jnp.bfloat16),
    "muon_float16": lambda lr: _muon(lr, compute_dtype=jnp.float16),
    "muon_per_head": lambda lr: optim.muon(lr, SPECS | {"wq": _PER_HEAD}, **_EXACT),
    "muon_heavy_ball": lambda lr: _muon(lr, nesterov=False),
    "muon_bfloat16_momentum": lambda lr: _muon(lr, momentum_dtype=jnp.bfloat16),
    "muon_keller_jordan": lambda lr: _muon(lr, shape_rule="keller_jordan"),
    "muon_spectral": lambda lr: _muon(lr, shape_rule="spectral"),
    "muon_with_decay": lambda lr: _muon(lr, weight_decay=0.01),
    "muonclip": _muonclip,
    "normuon": lambda lr: optim.normuon(lr, SPECS, **_EXACT),
    "adamuon": lambda lr: optim.adamuon(lr, SPECS, **_EXACT),
    "muon_hyperball": lambda lr: optim.muon_hyperball(
        lr, SPECS, compute_dtype=jnp.float32, weight_decay=0.0
    ),
    "guarded": lambda lr: optim.skip_bad_steps(_muonclip(lr), window_steps=4, num_sigmas=1e3),
    "averaged": _averaged,
    "partitioned": _partitioned,
    "master_weights": lambda lr: optim.with_master_weights(_muonclip(lr)),
    "accumulated": lambda lr: optim.accumulate(_muonclip(lr), 1),
}


def gaussian(seed: int, scale: float = 1.0):
    # NumPy, since every new JAX operation outside of jit costs a compilation.
    rng = np.random.default_rng(seed)
    shapes = {"bias": (D,), "wk": (L, D, H, K), "wq": (L, D, H, K)}
    return {n: np.float32(scale * rng.standard_normal(s)) for n, s in shapes.items()}


def example_params(scale=1.0):
    return jax.tree.map(jnp.asarray, gaussian(0, scale))


def example_grads(seed=1, scale=1.0):
    return jax.tree.map(jnp.asarray, gaussian(seed, scale))


class Case:
    """One optimizer, its state, and one compiled step that takes the learning rate as data."""

    def __init__(self, name: str):
        self.make = OPTIMIZERS[name]
        self.num_traces = 0
        self.params = example_params()
        self.state = self.make(0.0).init(self.params)
        # Unoptimised code compiles in half the time and is run a few hundred times only.
        self._compiled = jax.jit(self._step, compiler_options={"xla_backend_optimization_level": 0})

    def step(self, grads, state, params, lr, max_logits=MAX_LOGITS):
        return self._compiled(grads, state, params, np.float32(lr), max_logits)

    def _step(self, grads, state, params, lr, max_logits):
        self.num_traces += 1
        return self.make(lr).update(
            grads, state, params, max_logits=max_logits, value=jnp.zeros(()), not_known="ignored"
        )


@functools.cache
def case(name: str) -> Case:
    return Case(name)
