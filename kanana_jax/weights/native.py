"""A model to start from: Orbax parameters and router bias, config.json, tokenizer files.

    DIR/config.json     {"model": ModelConfig, "compute_dtype": what it was trained in,
                         "hugging_face": fields kept for an export}
    DIR/weights/        Orbax: {"params": ..., "router_bias": ...}

Leaves are written part by part, one zarr chunk each, so that neither writing nor reading needs a
whole stack of experts in memory.
"""

import asyncio
import contextlib
import dataclasses
import json
import logging
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import tensorstore as ts

from kanana_jax import config, model
from kanana_jax.checkpoint.errors import CheckpointError, first_line
from kanana_jax.weights import hf_files

CONFIG_NAME = "config.json"
_WEIGHTS = "weights"
_MAKE_ONE = "make the folder with python -m kanana_jax.convert"
CHAT_TEMPLATE_NAME = "chat_template.jinja"
# The files that say how text becomes tokens, in every form that published folders have.
_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "tiktoken.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    CHAT_TEMPLATE_NAME,
    "chat_template.json",
    "additional_chat_templates/*.jinja",
    "generation_config.json",
)


class Description(NamedTuple):
    """What config.json says."""

    cfg: config.ModelConfig
    extra: dict[str, Any]  # fields of a Hugging Face config.json that the model does not read
    compute_dtype: str = "bfloat16"


@dataclasses.dataclass(frozen=True)
class Streamed:
    """An array that is made while it is written: each part is (leading index, numbers)."""

    shape: tuple[int, ...]
    dtype: np.dtype
    part_shape: tuple[int, ...]
    parts: Callable[[], Iterable[tuple[tuple[int, ...], np.ndarray]]]

    def write(self, path: Path) -> None:
        lead = len(self.shape) - len(self.part_shape)
        chunk = (1,) * lead + tuple(max(size, 1) for size in self.part_shape)
        array = ts.open(
            _zarr(path),
            create=True,
            dtype=self.dtype,
            shape=self.shape,
            chunk_layout=ts.ChunkLayout(chunk_shape=chunk),
        ).result()
        for index, part in self.parts():
            array[index].write(part).result()


class _StreamedHandler(ocp.type_handlers.TypeHandler):
    """Lets Orbax save `Streamed` leaves; they are restored as ordinary arrays."""

    def typestr(self) -> str:
        return "np.ndarray"

    async def serialize(self, values, infos, args=None):
        for value, info in zip(values, infos, strict=True):
            await info.await_path_creation()
            # In a thread, because TensorStore's results wait on the loop that runs here.
            await asyncio.to_thread(value.write, Path(info.parent_dir / info.name))
        return []

    async def deserialize(self, infos, args=None):
        raise NotImplementedError("streamed leaves are only written")

    async def metadata(self, infos):
        raise NotImplementedError("streamed leaves are only written")


def _zarr(path: Path) -> dict[str, Any]:
    return {"driver": "zarr", "kvstore": {"driver": "file", "path": str(path.absolute())}}


@contextlib.contextmanager
def new_directory(path: Path) -> Iterator[Path]:
    """Yields a folder that becomes `path` if the block ends well, and vanishes if it does not."""
    path = path.absolute()
    made = [parent for parent in path.parents if not parent.exists()]
    try:
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise CheckpointError(f"{path} is not empty; choose another folder to write to")
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    except OSError as error:
        raise CheckpointError(
            f"{path} cannot be written ({first_line(error)}); choose another folder"
        ) from error
    try:
        yield temporary
        temporary.chmod(0o755)
        os.replace(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        for parent in made:
            with contextlib.suppress(OSError):  # it has something in it
                parent.rmdir()


def write(directory: Path, what: Description, weights: Any) -> None:
    """Writes config.json and `weights`, a tree like those of `stored` with `Streamed` leaves."""
    registry = ocp.type_handlers.create_type_handler_registry((Streamed, _StreamedHandler()))
    with _quiet():
        handler = ocp.PyTreeCheckpointHandler(use_ocdbt=False, type_handler_registry=registry)
        with ocp.Checkpointer(handler) as checkpointer:
            checkpointer.save(directory.absolute() / _WEIGHTS, args=ocp.args.PyTreeSave(weights))
    content = {
        "model": dataclasses.asdict(what.cfg),
        "compute_dtype": what.compute_dtype,
        "hugging_face": what.extra,
    }
    (directory / CONFIG_NAME).write_text(json.dumps(content, indent=2))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silences Orbax, which warns about what streaming leaves out."""
    logger = logging.getLogger("absl")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def streamed(x: Any) -> Streamed:
    """An array, layer by layer."""
    return loaded(x, lambda: x)


def loaded(like: Any, load: Callable[[], Any]) -> Streamed:
    """An array with the shape and dtype of `like`, loaded when it is written, layer by layer."""
    if not math.prod(like.shape):
        return Streamed(like.shape, like.dtype, like.shape, lambda: ())
    if len(like.shape) < 3:
        return Streamed(like.shape, like.dtype, like.shape, lambda: (((), np.asarray(load())),))
    parts = lambda: (((i,), np.asarray(part)) for i, part in enumerate(load()))  # noqa: E731
    return Streamed(like.shape, like.dtype, like.shape[1:], parts)


def read_description(directory: Path) -> Description:
    path = directory / CONFIG_NAME
    content = hf_files.read_json(path)
    cfg, compute_dtype = model_config(content, path)
    if not isinstance(content.get("hugging_face"), dict):
        raise CheckpointError(f"{path} is of no model folder; {_MAKE_ONE}")
    return Description(cfg, content["hugging_face"], compute_dtype)


def stored(weights: model.Weights) -> dict[str, Any]:
    """The tree of weights as files have it: "params" next to each buffer."""
    return {"params": weights.params, **weights.buffers}


def from_stored(tree: dict[str, Any]) -> model.Weights:
    """The inverse of `stored`."""
    return model.Weights(tree["params"], {k: v for k, v in tree.items() if k != "params"})


# Older files have these among the fields of the model's shape.
_FORMER_EXECUTION = (
    "compute_dtype",
    "remat",
    "scan_layers",
    "attention_implementation",
    "grouped_matmul_implementation",
    "expert_exchange",
    "deterministic",
)


def model_config(content: dict[str, Any], path: Path) -> tuple[config.ModelConfig, str]:
    """The "model" in `content`, read from `path`, and the dtype that it was trained in."""
    try:
        values = dict(content["model"])
        former = {name: values.pop(name, None) for name in _FORMER_EXECUTION}
        dtype = content.get("compute_dtype") or content.get("execution", former)["compute_dtype"]
        cfg = config.from_json(config.ModelConfig, values)
        return cfg, config.ExecutionConfig(compute_dtype=dtype or "bfloat16").compute_dtype
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{path} describes no model of this version ({error}); {_MAKE_ONE}"
        ) from None


def part_reader(directory: Path) -> Callable[[str], ts.TensorStore]:
    """Opens a leaf by a path such as "params/moe_layers/mlp/w_down", to be read part by part."""
    weights = directory.absolute() / _WEIGHTS

    def open_leaf(path: str) -> ts.TensorStore:
        try:
            return ts.open(_zarr(weights / path.replace("/", ".")), open=True).result()
        except ValueError as error:
            raise CheckpointError(
                f"{weights} has no readable {path} ({str(error).splitlines()[0]})"
            ) from None

    return open_leaf


def array_files(directory: Path) -> list[Path]:
    """The files of a model folder that hold its arrays."""
    leaves = sorted(path for path in (directory / _WEIGHTS).glob("*") if path.is_dir())
    return [path for leaf in leaves for path in sorted(leaf.rglob("*")) if path.is_file()]


def abstract(cfg: config.ModelConfig, dtype: Any, shardings: Any = None) -> model.Weights:
    """Shapes of the weights; `shardings` has their structure.

    Norms, routers and their bias, and a scalar head are float32 whatever `dtype` is,
    because the model computes with them in float32.
    """
    shapes = jax.eval_shape(lambda: model.init(cfg, jax.random.key(0)))
    narrow = jax.tree.map(
        lambda spec: jnp.float32 if spec.role in ("norm", "router", "scalar_head") else dtype,
        model.describe(cfg),
        is_leaf=lambda x: isinstance(x, model.ParamSpec),
    )
    dtypes = model.Weights(narrow, jax.tree.map(lambda x: x.dtype, shapes.buffers))
    if shardings is None:
        one = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        shardings = jax.tree.map(lambda _: one, shapes)
    return jax.tree.map(
        lambda x, dtype, sharding: jax.ShapeDtypeStruct(x.shape, dtype, sharding=sharding),
        shapes,
        dtypes,
        shardings,
    )


def restore(directory: Path, like: model.Weights) -> model.Weights:
    """The weights with the shapes, dtypes and shardings of `like`."""
    weights, wanted = directory.absolute() / _WEIGHTS, stored(like)
    if not weights.is_dir():
        raise CheckpointError(f"expected Orbax weights in {weights}, which does not exist")
    open_leaf = part_reader(directory)
    for key, x in jax.tree_util.tree_flatten_with_path(wanted)[0]:
        path = jax.tree_util.keystr(key, simple=True, separator="/")
        got = tuple(open_leaf(path).shape)
        if got != x.shape:
            raise CheckpointError(
                f"{weights}: {path} must have shape {x.shape} for this model, got {got}; "
                "config.json and weights are of different models"
            )
    with ocp.StandardCheckpointer() as checkpointer:
        return from_stored(checkpointer.restore(weights, wanted))


def tokenizer_files(directory: Path) -> list[Path]:
    """The tokenizer files that a folder has, as paths relative to it."""
    return [
        path.relative_to(directory)
        for pattern in _TOKENIZER_FILES
        for path in filter(Path.is_file, sorted(directory.glob(pattern)))
    ]


def copy_tokenizer(source: Path, target: Path) -> None:
    for path in tokenizer_files(source):
        (target / path).parent.mkdir(exist_ok=True)
        shutil.copyfile(source / path, target / path)
