"""What reinforcement learning asks of decoding besides the text, and the hand-over of new weights.

Tokens per second are those of a slice of a published shape with random weights. All rows end at the
last position of the cache, as in `benchmarks.decode`, which also has the flags that are not here.
Each kind of answer,

    tokens                   as readers of text need them
    tokens, logp             and how likely each one was
    tokens, logp, routes     and the experts that the tokens went to

is drawn from weights layer by layer in the dtype that the model computes in, and from training's
float32 stacks, which each call slices and casts for the tokens of one step. A hand-over is timed by
reference and as a copy onto one device, with the bytes that it makes on all devices together. If
there are two devices, they share experts; for the copy, the weights lie over fsdp. Prints a JSON
line for each.

    python -m benchmarks.rollouts --size=kanana_2_30b_a3b --layers=4
    python -m benchmarks.rollouts --size=tiny --context=64 --set=execution.compute_dtype=float32
"""

import functools
import json
from typing import Any

import jax
import numpy as np
from absl import app, flags
from jax.sharding import Mesh

from benchmarks import decode
from kanana_jax import config, generate, model, parallel
from kanana_jax.generate import decoder, sampling, unstacked
from kanana_jax.jobs import sampling as jobs_sampling
from kanana_jax.train import state

_ROWS = flags.DEFINE_integer("rows", 64, "Rows decoded at a time, an even number.", lower_bound=2)
_FLAGS = flags.FLAGS

_KINDS = {
    "tokens": {"with_logp": False, "with_routes": False},
    "tokens, logp": {"with_logp": True, "with_routes": False},
    "tokens, logp, routes": {"with_logp": True, "with_routes": True},
}


@functools.partial(
    jax.jit,
    static_argnames=("asked", "is_filtered", "with_logp", "with_routes"),
    donate_argnames="cache",
)
def draw(
    asked: decode.Settings,
    weights: unstacked.AnyWeights,
    cache: decoder.Cache,
    inputs: tuple[Any, ...],
    *,
    is_filtered: bool,
    with_logp: bool,
    with_routes: bool,
) -> tuple[decoder.Drawn, decoder.Cache]:
    """`decoder.draw`; log-probabilities that are not returned are not computed."""
    drawn, cache, _ = decoder.draw(
        asked.model,
        asked.execution,
        weights,
        cache,
        *inputs,
        is_filtered=is_filtered,
        with_routes=with_routes,
    )
    return drawn if with_logp else drawn._replace(logp_NB=drawn.tokens_NB), cache


def tokens_per_s(
    asked: decode.Settings, weights: unstacked.AnyWeights, mesh: Mesh | None, **kind: bool
) -> float:
    """The rate of steps whose results the host waits for."""
    num_rows, num_tokens = _ROWS.value, _FLAGS.tokens_per_step
    tokens_B = np.random.default_rng(0).integers(0, asked.model.vocab_size, num_rows, np.int32)
    samplings = [generate.Sampling(seed=row, top_p=_FLAGS.top_p) for row in range(num_rows)]
    inputs = (
        tokens_B,
        np.full(num_rows, _FLAGS.context - num_tokens, np.int32),
        sampling.rows(samplings, [0] * num_rows),
        np.full((num_tokens, num_rows), -1, np.int32),
    )
    is_filtered = sampling.is_filtered(samplings)
    with decoder.on_mesh(mesh):
        cache = decoder.init_cache(asked.model, asked.execution, num_rows, _FLAGS.context)

        def call() -> None:
            nonlocal cache
            drawn, cache = draw(asked, weights, cache, inputs, is_filtered=is_filtered, **kind)
            jax.tree.map(np.asarray, drawn)

        return round(num_rows * num_tokens / decode.seconds(call), 1)


def show_rates(
    asked: decode.Settings, weights: unstacked.AnyWeights, mesh: Mesh | None = None
) -> None:
    of = "unstacked" if isinstance(weights, unstacked.UnstackedWeights) else "stacks"
    for name, kind in _KINDS.items():
        rate = tokens_per_s(asked, weights, mesh, **kind)
        _show(what="decode", answer=name, weights=of, mesh=_axes(mesh), tokens_per_s=rate)


def show_hand_over(asked: decode.Settings, weights: model.Weights, mesh: Mesh) -> None:
    """Times the hand-over of training's weights on `mesh` to an existing engine."""
    handed = jobs_sampling.hand_over(weights, asked, mesh)
    known = {id(leaf) for leaf in jax.tree.leaves(weights)}
    made = [leaf for leaf in jax.tree.leaves(handed.weights) if id(leaf) not in known]
    engine = generate.Engine(
        asked.model,
        asked.execution,
        handed.weights,
        decode=str,
        eos_ids=(),
        num_rows=handed.num_parts,
        length=8,
        mesh=handed.mesh,
    )

    def update() -> None:
        new = jobs_sampling.hand_over(weights, asked, mesh).weights
        engine.update(jax.block_until_ready(new), engine.version + 1)

    _show(
        what="hand-over",
        how="copy" if made else "reference",
        mesh=_axes(mesh),
        bytes_made=sum(shard.data.nbytes for leaf in made for shard in leaf.addressable_shards),
        ms=round(1e3 * decode.seconds(update), 4),
    )


def _placed(
    asked: decode.Settings, weights: model.Weights, **axes: int
) -> tuple[model.Weights, Mesh]:
    """The weights as training has them on a mesh of these axes."""
    cfg = config.MeshConfig(data=1, **axes)
    mesh = parallel.make_mesh(cfg, jax.devices()[: max(axes.values(), default=1)])
    return jax.device_put(weights, state.weight_shardings(asked.model, mesh)), mesh


def _axes(mesh: Mesh | None) -> dict[str, int]:
    return {} if mesh is None else {name: n for name, n in mesh.shape.items() if n > 1}


def _show(**figures: Any) -> None:
    about = {
        "size": _FLAGS.size,
        "layers": _FLAGS.layers,
        "rows": _ROWS.value,
        "context": _FLAGS.context,
        "tokens_per_step": _FLAGS.tokens_per_step,
        "top_p": _FLAGS.top_p,
        "edits": _FLAGS.set,
        "device": jax.devices()[0].device_kind,
        "jax": jax.__version__,
    }
    print(json.dumps(figures | about), flush=True)


def main(_) -> None:
    if _FLAGS.context < _FLAGS.tokens_per_step or _ROWS.value % 2:
        raise app.UsageError("--context must hold --tokens_per_step, and --rows must be even")
    asked = decode.settings()
    made = jax.jit(functools.partial(model.init, asked.model))(jax.random.key(0))
    stacks, mesh = _placed(asked, made)
    del made
    show_hand_over(asked, stacks, mesh)
    show_rates(asked, stacks)
    copied = jax.jit(functools.partial(unstacked.ready, asked.model, asked.execution))
    show_rates(asked, copied(stacks))
    if len(jax.devices()) > 1:
        shared, mesh = _placed(asked, stacks, expert=2)
        show_hand_over(asked, shared, mesh)
        show_rates(asked, shared, mesh)
        del shared
        show_hand_over(asked, *_placed(asked, stacks, fsdp=2))


if __name__ == "__main__":
    app.run(main)
