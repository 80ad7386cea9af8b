"""The newest checkpoint of a training run as a model folder, without its optimizer state."""

import json
import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from kanana_jax.checkpoint import manifest, owner, places, shards
from kanana_jax.checkpoint.errors import CheckpointError, first_line
from kanana_jax.checkpoint.objects import UnreachableError
from kanana_jax.weights import hf_files, native


def import_run(run: Path, target: Path) -> None:
    """Writes `target` from the run in the folder `run`, e.g. runs/NAME/run.

    Holds the parameters in memory once, in float32. Its checkpoints are where its settings say.
    Raises CheckpointError, and UnreachableError when their store does not answer.
    """
    workdir = _workdir(run)
    exp, tokenizer = _recorded(run, workdir)
    cfg, dtype = native.model_config(_in_last_stage(exp), workdir / "config.json")
    start = Path(exp["train"]["init_from"])
    extra = native.read_description(start).extra if exp["train"]["init_from"] else {}
    if tokenizer is not None and not tokenizer.is_file():
        raise CheckpointError(
            f"{tokenizer}, the tokenizer that {run} was trained with, is not there; put it back"
        )
    weights = _restore(_where(exp, workdir, run), native.abstract(cfg, jnp.float32))
    with native.new_directory(target) as folder:
        parts = jax.tree.map(native.streamed, native.stored(weights))
        native.write(folder, native.Description(cfg, extra, dtype), parts)
        if exp["train"]["init_from"]:
            native.copy_tokenizer(start, folder)
        if tokenizer is not None:
            shutil.copyfile(tokenizer, folder / "tokenizer.json")
            if exp["data"]["tokenizer"] == "bpe":
                said = tokenizer_config(hf_files.read_json(tokenizer))
                (folder / "tokenizer_config.json").write_text(json.dumps(said))


def tokenizer_config(tokenizer: dict[str, Any]) -> dict[str, Any]:
    """What training did with the special tokens of the tokenizer.json that it made, for others."""
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
    return exp | {"model": exp["model"] | changed}


def _where(exp: dict[str, Any], workdir: Path, run: Path) -> str:
    checkpoint_dir = exp["train"].get("checkpoint_dir", "")  # older runs do not have it
    if checkpoint_dir:
        owner.check(places.shared_place(checkpoint_dir, exp["name"]), workdir)
    return places.place_of(checkpoint_dir, exp["name"], run)


def _restore(where: str, like: Any) -> Any:
    place = places.open_place(where)
    finished = place.finished()
    if not finished:
        raise CheckpointError(f"{where} has no finished checkpoint; train until one is saved")
    step = max(finished)
    newest = place.content(finished[step])
    try:
        leaves = manifest.load(newest, step)["leaves"]
        arrays = []
        for path, x in shards.paths({"weights": like}).items():
            name = path if path in leaves else _former_path(path)
            regions = shards.read(newest.below("state"), name, leaves[name], x)
            arrays.append(shards.place(regions, x))
        return jax.tree.unflatten(jax.tree.structure(like), arrays)
    except UnreachableError:
        raise
    except Exception as error:  # damaged files fail in too many ways to list
        raise CheckpointError(
            f"{newest} cannot be used ({first_line(error)}); start the training command again, "
            "which sets damaged checkpoints aside"
        ) from error


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
