"""A model folder from `kanana_jax.convert` or Hugging Face, ready to generate."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from kanana_jax import config, model, parallel
from kanana_jax.checkpoint import CheckpointError
from kanana_jax.config import paths
from kanana_jax.data import DataError, tokenizer
from kanana_jax.data import chat as formats
from kanana_jax.data.chat import dialects
from kanana_jax.generate import chat, engine, special_tokens, unstacked
from kanana_jax.generate.unstacked import UnstackedWeights
from kanana_jax.model import decoding, layers
from kanana_jax.weights import hf_image_config, hf_names, hf_tokenizer, source, whole


class OwnFormat(NamedTuple):
    """A chat format of ours, and the tokenizer with BOS and EOS as in training."""

    format: formats.Format
    tokenizer: tokenizer.Tokenizer


class Loaded(NamedTuple):
    directory: Path
    cfg: config.ModelConfig
    execution: config.ExecutionConfig
    weights: UnstackedWeights
    tokenizer: tokenizer.Tokenizer
    bos_ids: tuple[int, ...]  # what a prompt begins with, mostly nothing or one id
    eos_ids: tuple[int, ...]
    template: chat.Template | None
    mesh: jax.sharding.Mesh | None
    closing_ids: tuple[int, ...] = ()  # what a prompt ends with, where tokenizer.json adds it
    own_format: OwnFormat | None = None  # where the template belongs to one
    image_id: int | None = None  # what a foreign template writes for an image

    def prompt_ids(self, prompt: str) -> list[int]:
        """Ids of a prompt, special tokens where spelled; no second bos if it begins with one.

        So a conversation that a client has put into the template gets the ids of `chat_ids`.
        """
        ids = self.tokenizer.encode_marked(prompt)
        has_bos = tuple(ids[: len(self.bos_ids)]) == self.bos_ids
        return [*(() if has_bos else self.bos_ids), *ids, *self.closing_ids]

    @property
    def dialect(self) -> dialects.Dialect | None:
        """How the model writes reasoning and calls, judging by its template for them."""
        if self.template is None:
            return None
        return dialects.of(self.template.tool_source or self.template.source)

    def chat_ids(
        self,
        messages: list[dict[str, Any]],
        tools: Sequence[formats.Tool] | None = None,
        **variables: Any,
    ) -> list[int]:
        """Ids of a conversation; ChatError where the checkpoint has no template or it refuses.

        With a format of ours the ids are those of training. `variables` are further variables of a
        template; those that it does not name change nothing. No token is put around its output.
        """
        if self.template is not None:
            variables = {k: value for k, value in variables.items() if self.template.reads(k)}
        if self.own_format is not None and not variables:
            return self._own_ids(self.own_format, messages, tools)
        if self.template is None:
            raise chat.ChatError(chat.no_template_message(self.directory))
        text = self.template.render(messages, tools=tools, **variables)
        return self.tokenizer.encode_marked(text)

    def _own_ids(
        self,
        own: OwnFormat,
        messages: list[dict[str, Any]],
        tools: Sequence[formats.Tool] | None,
    ) -> list[int]:
        try:
            said, known = checked(messages, tools)
            return formats.encode(*own, said, known, add_generation_prompt=True).ids
        except DataError as error:
            raise chat.ChatError(str(error)) from error

    def engine(self, *, num_rows: int, length: int, **options: Any) -> engine.Engine:
        """An engine for this model; `options` are further settings of `Engine`."""
        return engine.Engine(
            self.cfg,
            self.execution,
            self.weights,
            decode=self.tokenizer.decode,
            decode_marked=self.tokenizer.decode_marked,
            eos_ids=self.eos_ids,
            num_rows=num_rows,
            length=length,
            mesh=self.mesh,
            **options,
        )


def load(
    directory: str | Path,
    compute_dtype: str | None = None,
    *,
    tensor_parallel: int = 1,
    adapters: str | Path | None = None,
) -> Loaded:
    """Loads weights in the compute dtype, which is the config's unless given.

    One layer of a leaf at a time goes from the files to the devices: heads and the experts' width
    are split over `tensor_parallel` of them. `adapters`, a PEFT folder or the folder of a run
    that trained them, are added on the way. A folder without tokenizer.json is a model of bytes.
    Raises CheckpointError, and ConfigError when the sizes do not divide over the devices.
    """
    directory = paths.local(directory, "--checkpoint")
    added = None if adapters is None else paths.local(adapters, "--adapters")
    opened = source.open_source(directory, added)
    cfg = opened.cfg
    dtype = opened.compute_dtype if compute_dtype is None else compute_dtype
    execution = config.edit(config.ExecutionConfig(), [f"compute_dtype={dtype}"])
    used = _tokenizer(directory, cfg, is_described=bool(opened.extra))
    special = special_tokens.read(directory, opened.extra, used, cfg.vocab_size)
    used = dataclasses.replace(
        used, bos_id=special.bos_id, eos_id=special.eos_ids[0] if special.eos_ids else None
    )
    template = chat.load(directory)
    eos_ids, own_format = special.eos_ids, None
    if template is not None and (fmt := formats.own(template.source)):
        own_format = OwnFormat(fmt, _as_in_training(directory, used))
        end = formats.end_id(*own_format)
        eos_ids = eos_ids if end is None else tuple(dict.fromkeys([end, *eos_ids]))
    mesh = None
    if tensor_parallel != 1:
        devices = jax.devices()[:tensor_parallel]
        mesh = parallel.make_mesh(config.MeshConfig(data=1, tensor=tensor_parallel), devices)
    return Loaded(
        directory=directory,
        cfg=cfg,
        execution=execution,
        weights=_place(cfg, layers.compute_dtype(execution), opened, mesh),
        tokenizer=used,
        bos_ids=special.before,
        eos_ids=eos_ids,
        template=template,
        mesh=mesh,
        closing_ids=special.after,
        own_format=own_format,
        image_id=opened.extra.get(hf_image_config.EXTRA, {}).get("image_token_id"),
    )


def checked(
    messages: Sequence[dict[str, Any]], tools: Sequence[formats.Tool] | None
) -> tuple[list[dict[str, Any]], list[formats.Tool]]:
    """Messages and tools of a request, as formats of ours take them. Raises DataError."""
    known = formats.checked_tools(tools and [*tools], "the request")
    said = formats.checked_messages(
        [_renamed(one) for one in messages],
        "the messages",
        "the request",
        last=("user", "tool"),
        tools=known,
        is_of_model=True,
    )
    return said, known


def _renamed(message: dict[str, Any]) -> dict[str, Any]:
    """A message with role and reasoning under one of the two names that clients use for each."""
    rest = {key: value for key, value in message.items() if key != "reasoning"}
    if message.get("role") == "developer":
        rest["role"] = "system"
    return {"reasoning_content": message["reasoning"], **rest} if "reasoning" in message else rest


def _as_in_training(directory: Path, used: tokenizer.Tokenizer) -> tokenizer.Tokenizer:
    """The tokenizer with the BOS and EOS that training takes from the files next to it."""
    if not used.json:
        return tokenizer.byte_tokenizer()
    beside = {
        name: path.read_bytes() if path.exists() else None
        for name in tokenizer.BESIDE
        for path in [directory / name]
    }
    path = directory / "tokenizer.json"
    return tokenizer.from_json(used.json, str(path), **tokenizer.special_tokens(beside))


def _place(
    cfg: config.ModelConfig,
    compute_dtype: jnp.dtype,
    opened: source.Source,
    mesh: jax.sharding.Mesh | None,
) -> UnstackedWeights:
    def put(x: np.ndarray, spec: model.ParamSpec) -> jax.Array:
        dtype = unstacked.kept_dtype(spec, compute_dtype)
        sharding: Any = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        if mesh is not None:
            sharding = parallel.param_shardings(mesh, x, spec.logical_axes)
        return jax.device_put(x.astype(dtype), sharding)

    specs = model.describe(cfg)
    top = {
        name: put(opened.read(name, None), specs[name])
        for name in ("embed", "final_norm", "head")
        if name in specs
    }
    bias_spec = model.ParamSpec(role="router", logical_axes=("scores",))
    made = []
    for index in range(cfg.num_layers):
        stack, place = unstacked.locate(cfg, index)
        is_moe = stack == "moe_layers"
        block = _read_block(cfg, opened, stack, place)
        bias_E = opened.read(hf_names.ROUTER_BIAS, place) if is_moe else np.zeros(0, np.float32)
        specs_of_layer = decoding.describe_layer(cfg, is_moe=is_moe)
        placed = jax.tree.map(put, block, specs_of_layer)
        made.append(unstacked.Layer(placed, put(bias_E, bias_spec)))
    encoders = {}
    for name in model.encoders.shapes(cfg):
        read = _encoder_params(opened, specs[name], name, hf_names.leaves(cfg))
        encoders[name] = jax.tree.map(put, read, specs[name])
    return UnstackedWeights(
        top["embed"], top.get("final_norm"), top.get("head"), tuple(made), encoders
    )


def _encoder_params(
    opened: source.Source, specs: Any, path: str, leaves: Mapping[str, hf_names.Leaf]
) -> Any:
    """The parameters of an encoder, whose layers stay stacked as in training."""
    if isinstance(specs, model.ParamSpec):
        return whole.read(opened, path, leaves[path])
    return {
        name: _encoder_params(opened, inner, f"{path}/{name}", leaves)
        for name, inner in specs.items()
    }


def _read_block(
    cfg: config.ModelConfig, opened: source.Source, stack: str, place: int
) -> dict[str, Any]:
    def read(path: str, specs: Any) -> Any:
        if isinstance(specs, model.ParamSpec):
            return opened.read(path, place)
        return {name: read(f"{path}/{name}", inner) for name, inner in specs.items()}

    return decoding.prepare(cfg, read(stack, model.describe(cfg)[stack]))


def _tokenizer(
    directory: Path, cfg: config.ModelConfig, *, is_described: bool
) -> tokenizer.Tokenizer:
    content = hf_tokenizer.read(directory, cfg.vocab_size)
    if content is None:
        return _fitting(directory, cfg, tokenizer.byte_tokenizer())
    path = directory / hf_tokenizer.NAME
    # A model trained here from scratch is described by no file but its tokenizer.
    needs_ends = not (is_described or special_tokens.is_described(directory))
    try:
        used = tokenizer.from_json(content, str(path), needs_ends=needs_ends)
    except DataError as error:
        raise CheckpointError(str(error).removeprefix("data.tokenizer: ")) from error
    return _fitting(directory, cfg, used)


def _fitting(
    directory: Path, cfg: config.ModelConfig, used: tokenizer.Tokenizer
) -> tokenizer.Tokenizer:
    if used.vocab_size > cfg.vocab_size:
        raise CheckpointError(
            f"{directory}: the tokenizer has {used.vocab_size} tokens, the model {cfg.vocab_size}; "
            "put the model's own tokenizer.json there"
        )
    return used
