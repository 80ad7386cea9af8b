"""Answers of the model that is being trained, drawn by the engine that also serves.

A draw depends on the weights, the prompt and the seed of its request, not on what else is drawn, so
answers are the same whatever the number of processes. Each process draws a part on one of its
devices, where the whole model must fit, and all of them get all answers.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from kanana_jax import config, model, parallel
from kanana_jax.generate import Engine, Request, unstacked
from kanana_jax.generate.answers import Answer, answers, from_json, to_json

# Prompts are read in parts of one width, so one function is compiled for all of them.
_CHUNK = 32

Sample = Callable[[Sequence[Request]], list[Answer]]


class Place(NamedTuple):
    """What decoding is compiled for, beside the model: `num_rows` requests of `length` tokens."""

    num_rows: int
    length: int
    with_routes: bool = False  # whether answers say which experts their tokens went to


def of(
    weights: model.Weights,
    built: Any,
    decode: Callable[[Sequence[int]], str],
    end_id: int | None,
    place: Place,
    version: int = 0,
) -> Sample:
    """A function that draws answers up to `end_id`; all processes call it together.

    RequestError where a prompt and its answer do not fit in `place.length`.
    """
    index, count = jax.process_index(), jax.process_count()
    engine = Engine(
        built.steps.cfg.model,
        built.steps.cfg.execution,
        _on_one_device(built.steps.cfg.model, built.mesh)(weights),
        decode=decode,
        eos_ids=[] if end_id is None else [end_id],
        num_rows=place.num_rows,
        length=rounded(place.length),
        chunk=_CHUNK,
        with_routes=place.with_routes,
        version=version,
    )

    def sample(requests: Sequence[Request]) -> list[Answer]:
        mine = map(to_json, answers(engine, requests[index::count]))
        parts = parallel.everyones(list(mine))
        found = (parts[i % count][i // count] for i in range(len(requests)))
        return list(map(from_json, found))

    return sample


def rounded(length: int) -> int:
    """A length of cache that is whole chunks."""
    return -(-length // _CHUNK) * _CHUNK


@functools.lru_cache(maxsize=8)
def _on_one_device(cfg: config.ModelConfig, mesh: jax.sharding.Mesh) -> Callable:
    """From weights of training on `mesh` to those that decoding reads, on a device of our own."""
    unstack = jax.jit(
        functools.partial(unstacked.from_stacks, cfg), out_shardings=NamedSharding(mesh, P())
    )
    return lambda weights: jax.tree.map(lambda x: x.addressable_data(0), unstack(weights))
