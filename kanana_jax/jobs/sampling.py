"""Answers of the model that is being trained, drawn by the engine that also serves.

A draw depends on the weights, the prompt and the seed of its request, not on what else is drawn, so
answers are the same whatever the number of processes. All of them get all answers.

    one process        the engine takes over training's weights where they lie, on all its devices
    several, or fsdp   each process draws a part on one of its devices, where the whole model must
                       fit, in the dtype that it computes in

Over fsdp every token would gather all weights; a copy is gathered once.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from kanana_jax import config, model, parallel
from kanana_jax.generate import Engine, Request, Room, unstacked
from kanana_jax.generate.answers import Answer, answers, from_json, to_json

# Prompts are read in parts of one width, so one function is compiled for all of them.
_CHUNK = 32
_PROMPTS_AT_ONCE = 4
# With more, answers of some 30 tokens would waste more draws after their ends than is saved.
_TOKENS_PER_STEP = 8

Sample = Callable[[Sequence[Request]], list[Answer]]


class Place(NamedTuple):
    """What decoding is compiled for, besides the model: `num_rows` requests of `length` tokens."""

    num_rows: int
    length: int
    with_routes: bool = False  # whether answers say which experts their tokens went to
    compute_dtype: Literal["", "bfloat16", "float32"] = ""  # empty: training's
    room: Room = Room()  # for what stands in the place of a prompt's tokens
    chunk: int = _CHUNK  # tokens of a prompt that are read at a time
    prompts_at_once: int = _PROMPTS_AT_ONCE


def of(
    weights: model.Weights,
    built: Any,
    decode: Callable[[Sequence[int]], str],
    end_id: int | None,
    place: Place,
    version: int = 0,
) -> Sample:
    """A function that draws answers up to `end_id`; all processes call it together.

    Raises RequestError where a prompt and its answer do not fit in `place.length`.
    """
    cfg, index, count = built.steps.cfg, jax.process_index(), jax.process_count()
    if place.compute_dtype:
        execution = dataclasses.replace(cfg.execution, compute_dtype=place.compute_dtype)
        cfg = dataclasses.replace(cfg, execution=execution)
    handed = hand_over(weights, cfg, built.mesh)
    engine = Engine(
        cfg.model,
        cfg.execution,
        handed.weights,
        decode=decode,
        eos_ids=[] if end_id is None else [end_id],
        num_rows=_whole(place.num_rows, handed.num_parts),
        length=rounded(place.length, place.chunk),
        chunk=place.chunk,
        tokens_per_step=_TOKENS_PER_STEP,
        prompts_at_once=_whole(place.prompts_at_once, handed.num_parts),
        with_routes=place.with_routes,
        room=place.room,
        version=version,
        mesh=handed.mesh,
    )

    def sample(requests: Sequence[Request]) -> list[Answer]:
        # Neighbours stay together: they often have a prompt in common, which is read once.
        start, end = (len(requests) * place // count for place in (index, index + 1))
        mine = list(map(to_json, answers(engine, requests[start:end])))
        return list(map(from_json, itertools.chain(*parallel.everyones(mine))))

    return sample


class HandedOver(NamedTuple):
    """Weights as an engine takes them."""

    weights: unstacked.AnyWeights
    mesh: jax.sharding.Mesh | None  # that the engine computes on; None: on one device
    num_parts: int  # into which the mesh divides rows


def hand_over(weights: model.Weights, cfg: Any, mesh: jax.sharding.Mesh) -> HandedOver:
    """Training's weights themselves, or a copy on one device of this process; see the module.

    `cfg` is the StepConfig of their steps.
    """
    sizes = dict(mesh.shape)
    # A token alone cannot be divided over the context axis.
    if jax.process_count() == 1 and sizes["fsdp"] == sizes["context"] == 1:
        num_parts = math.prod(sizes[axis] for axis in config.BATCH_AXES)
        return HandedOver(weights, None if mesh.size == 1 else mesh, num_parts)
    return HandedOver(_on_one_device(cfg.model, cfg.execution, mesh)(weights), None, 1)


def rounded(length: int, chunk: int = _CHUNK) -> int:
    """The length of a cache, rounded up to whole chunks."""
    return _whole(length, chunk)


def _whole(number: int, size: int) -> int:
    """The smallest multiple of `size` that is at least `number`."""
    return -(-number // size) * size


@functools.lru_cache(maxsize=8)
def _on_one_device(
    cfg: config.ModelConfig, execution: config.ExecutionConfig, mesh: jax.sharding.Mesh
) -> Callable:
    """Turns weights of training on `mesh` into decoding's, on one device of this process."""
    unstack = jax.jit(
        functools.partial(unstacked.ready, cfg, execution), out_shardings=NamedSharding(mesh, P())
    )
    return lambda weights: jax.tree.map(lambda x: x.addressable_data(0), unstack(weights))
