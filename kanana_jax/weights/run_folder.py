"""Checkpoints of a training run as a model folder, without its optimizer state.

Leaves are read while they are written, one at a time.
"""

import contextlib
import functools
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from kanana_jax import config
from kanana_jax.checkpoint import manifest, owner, places, shards
from kanana_jax.checkpoint.errors import CheckpointError, first_line, some
from kanana_jax.checkpoint.objects import Objects, UnreachableError
from kanana_jax.weights import hf_files, lora, native, peft
from kanana_jax.weights.lora import Load

_PARAMS = "weights/params/"
# What a template calls the special tokens of a model of bytes.
_TOKENS_OF_BYTES = {"bos_token": "<|bos|>", "eos_token": "<|eos|>", "add_bos_token": True}


class Recorded(NamedTuple):
    """What the folders say about a run, besides its checkpoints."""

    what: native.Description
    where: str  # where its checkpoints are
    start: Path | None  # the model folder that it began with
    tokenizer: Path | None  # None for bytes
    has_own_tokens: bool  # the tokenizer was made from its text
    chat_template: Path | None = None  # of a run on conversations
    lora: config.LoraConfig = config.LoraConfig()


class Saved(NamedTuple):
    """A finished checkpoint."""

    folder: Objects
    leaves: dict[str, shards.Entry]  # of the whole state
    base: str = ""  # names the model that its adapters are added to


def import_run(run: Path, target: Path, *, is_average: bool = False) -> None:
    """Writes `target` from the newest checkpoint of a run in the folder `run`, e.g. runs/NAME/run.

    With `is_average`, from the average of the parameters there, with the newest router bias.
    Weights are float32. The run's settings say where its checkpoints are. Raises CheckpointError,
    and UnreachableError when their store does not answer.
    """
    recorded = open_run(run)
    (checkpoint,) = newest(recorded, 1)
    if is_average and not any("/average/" in path for path in checkpoint.leaves):
        raise CheckpointError(
            f"{checkpoint.folder} holds no average of the weights; only runs with "
            "train.average.every_tokens over 0 keep one"
        )
    write(target, recorded, loader(recorded, checkpoint, is_average=is_average))


def export_peft(run: Path, target: Path) -> None:
    """Writes `target`, a PEFT folder of the adapters in the newest checkpoint of a run.

    Raises CheckpointError where the run has trained no adapters, or more than adapters.
    """
    recorded = open_run(run)
    if recorded.what.cfg.scalar_head:
        raise CheckpointError(
            f"{run} has trained a scalar head beside its adapters, which a PEFT folder is not "
            "written with; make a model folder of it by --to"
        )
    peft.write(target, recorded.what.cfg, open_pairs(run), base=str(recorded.start))


def open_pairs(run: Path, base: Path | None = None) -> dict[str, lora.Pair]:
    """The adapters of a run's newest checkpoint, for a model folder, by default the run's own."""
    recorded = open_run(run)
    if not recorded.lora.rank:
        raise CheckpointError(f"{run} has no adapters; it was trained with lora.rank=0")
    (checkpoint,) = newest(recorded, 1)
    _expect_base(recorded._replace(start=base or recorded.start), checkpoint)
    return _pairs(recorded, functools.partial(read, checkpoint))


def loader(recorded: Recorded, saved: Saved, *, is_average: bool = False) -> Load:
    """Gives the leaves of the model in a checkpoint; for a run with adapters, the merged ones."""
    load = functools.partial(_read_average if is_average else read, saved)
    if not recorded.lora.rank:
        return load
    return lora.merged(_expect_base(recorded, saved), _pairs(recorded, load), load)


def _pairs(recorded: Recorded, load: Load) -> dict[str, lora.Pair]:
    return lora.trained_pairs(recorded.what.cfg, recorded.lora, load)


def _expect_base(recorded: Recorded, saved: Saved) -> Path:
    assert recorded.start is not None  # a run with adapters always begins with a model
    lora.expect_base(recorded.start, saved.base)
    return recorded.start


def open_run(run: Path) -> Recorded:
    """Raises CheckpointError where `run` is no folder of a run, or its tokenizer is gone."""
    workdir = _workdir(run)
    exp, tokenizer = _recorded(run, workdir)
    cfg, dtype = native.model_config(_in_last_stage(exp), workdir / "config.json")
    start = Path(exp["train"]["init_from"]) if exp["train"]["init_from"] else None
    extra = native.read_description(start).extra if start else {}
    if tokenizer is not None and not tokenizer.is_file():
        raise CheckpointError(
            f"{tokenizer}, the tokenizer that {run} was trained with, is not there; put it back"
        )
    return Recorded(
        what=native.Description(cfg, extra, dtype),
        where=_where(exp, workdir, run),
        start=start,
        tokenizer=tokenizer,
        has_own_tokens=exp["data"]["tokenizer"] == "bpe",
        chat_template=_if_file(run / native.CHAT_TEMPLATE_NAME),
        lora=config.from_json(config.LoraConfig, exp.get("lora", {})),  # older runs have none
    )


def newest(recorded: Recorded, count: int) -> list[Saved]:
    """The last `count` finished checkpoints of a run, oldest first."""
    place = places.open_place(recorded.where)
    finished = place.finished()
    if not finished:
        raise CheckpointError(
            f"{recorded.where} has no finished checkpoint; train until one is saved"
        )
    if len(finished) < count:
        raise CheckpointError(
            f"{recorded.where} must have {count} finished checkpoints, got {len(finished)}, of "
            f"steps {some(map(str, finished))}; ask for fewer, or train on with a larger "
            "train.keep_checkpoints, the number that a run keeps"
        )
    found = []
    for step, name in sorted(finished.items())[-count:]:
        folder = place.content(name)
        with _usable(folder):
            content = manifest.load(folder, step)
            found.append(Saved(folder, content["leaves"], content["notes"].get("base", "")))
    return found


def read(saved: Saved, path: str, like: jax.ShapeDtypeStruct) -> np.ndarray:
    """A leaf of a checkpoint, verified. Raises CheckpointError, and UnreachableError."""
    with _usable(saved.folder):
        name = path if path in saved.leaves else _former_path(path)
        (x,) = shards.read(saved.folder.below("state"), name, saved.leaves[name], like).values()
        return x


def write(target: Path, recorded: Recorded, load: Load) -> None:
    """Writes the model folder `target`; `load` gives each leaf when its turn comes."""
    like = {"weights": native.abstract(recorded.what.cfg, jnp.float32)}

    def leaf(key: Any, x: jax.ShapeDtypeStruct) -> native.Streamed:
        path = jax.tree_util.keystr(key, simple=True, separator="/")
        return native.loaded(x, functools.partial(load, path, x))

    tree = jax.tree_util.tree_map_with_path(leaf, like)["weights"]
    with native.new_directory(target) as folder:
        native.write(folder, recorded.what, native.stored(tree))
        if recorded.start is not None:
            native.copy_tokenizer(recorded.start, folder)
        if recorded.tokenizer is not None:
            shutil.copyfile(recorded.tokenizer, folder / "tokenizer.json")
            if recorded.has_own_tokens:
                said = tokenizer_config(hf_files.read_json(recorded.tokenizer))
                (folder / "tokenizer_config.json").write_text(json.dumps(said))
        if recorded.chat_template is not None:
            # The start model's templates, for conversations with tools, do not belong to this one.
            shutil.rmtree(folder / "additional_chat_templates", ignore_errors=True)
            shutil.copyfile(recorded.chat_template, folder / native.CHAT_TEMPLATE_NAME)
            if not (folder / "tokenizer.json").exists():
                (folder / "tokenizer_config.json").write_text(json.dumps(_TOKENS_OF_BYTES))


def _if_file(path: Path) -> Path | None:
    return path if path.is_file() else None


def tokenizer_config(tokenizer: dict[str, Any]) -> dict[str, Any]:
    """Tells other programs how training used the special tokens of the tokenizer.json it made."""
    bos, eos = (token["content"] for token in tokenizer["added_tokens"])
    return {"bos_token": bos, "eos_token": eos, "add_bos_token": True}


def _workdir(run: Path) -> Path:
    """The working directory of a run, which lies one or two folders below it."""
    for workdir in (run.parent, run.parent.parent):
        if run.is_dir() and (workdir / "config.json").exists():
            return workdir
    raise CheckpointError(f"expected the folder of a training run, below a config.json; got {run}")


def _recorded(run: Path, workdir: Path) -> tuple[dict[str, Any], Path | None]:
    """The run's configuration and tokenizer.json, which is None for bytes."""
    if (run / "run.json").exists():
        about = hf_files.read_json(run / "run.json")
        return about["config"], workdir / about["tokenizer"] if about["tokenizer"] else None
    # Older runs know only what all arms share.
    exp = hf_files.read_json(workdir / "config.json")
    edits = [edit for arm in exp["arms"] for edit in arm["edits"]]
    if any(edit.startswith("model.") for edit in edits):
        raise CheckpointError(
            f"{workdir} compares models, so its config.json does not say which {run} is; "
            "run the arm as an experiment of its own"
        )
    return exp, None if exp["train"]["init_from"] else _tokenizer(exp, workdir)


def _in_last_stage(exp: dict[str, Any]) -> dict[str, Any]:
    """The settings with the rope of the run's last stage, for which its weights are made."""
    if not exp.get("stages"):
        return exp
    rope = {name: exp["stages"][-1][name] for name in ("rope_theta", "yarn")}
    changed = {name: value for name, value in rope.items() if value is not None}
    if "yarn" in changed:
        changed["llama3_rope"] = None
    return exp | {"model": exp["model"] | changed}


def _where(exp: dict[str, Any], workdir: Path, run: Path) -> str:
    checkpoint_dir = exp["train"].get("checkpoint_dir", "")  # older runs do not have it
    if checkpoint_dir:
        owner.check(places.shared_place(checkpoint_dir, exp["name"]), workdir)
    return places.place_of(checkpoint_dir, exp["name"], run)


@contextlib.contextmanager
def _usable(folder: Objects) -> Iterator[None]:
    """What goes wrong inside is the checkpoint's fault, or its store's."""
    try:
        yield
    except UnreachableError:
        raise
    except Exception as error:  # damaged files fail in too many ways to list
        raise CheckpointError(
            f"{folder} cannot be used ({first_line(error)}); start the training command again, "
            "which sets damaged checkpoints aside"
        ) from error


def _read_average(saved: Saved, path: str, like: jax.ShapeDtypeStruct) -> np.ndarray:
    """The average of a parameter; the newest value of a buffer, which has no average."""
    return read(saved, _average_of(saved, path) or path, like)


def _average_of(saved: Saved, path: str) -> str | None:
    """Where the average of the parameter at `path` lies."""
    end = f"/average/{path.removeprefix(_PARAMS)}"
    is_param = path.startswith(_PARAMS)
    found = [name for name in saved.leaves if is_param and name.endswith(end)]
    return found[0] if found else None


def _former_path(path: str) -> str:
    """Where older checkpoints have a leaf: their state has no groups "weights" and "buffers"."""
    return path.removeprefix("weights/").removeprefix("buffers/")


def _tokenizer(exp: dict[str, Any], workdir: Path) -> Path | None:
    """The tokenizer.json of an older run that started from nothing; None for bytes."""
    name = exp["data"]["tokenizer"]
    if name == "bytes":
        return None
    if name != "bpe":
        return Path(name)
    cache = Path(exp["data"]["cache_dir"] or workdir / "cache")
    found = sorted(cache.glob("tokens-*/tokenizer.json"))
    if len(found) != 1:
        raise CheckpointError(
            f"expected one token store in {cache}, got {len(found)}; remove those of other runs"
        )
    return found[0]
