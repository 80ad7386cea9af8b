"""The newest checkpoint of a training run as a model folder, without its optimizer state."""

import json
import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from kanana_jax.checkpoint import hf_files, manifest, native, owner, places, shards
from kanana_jax.checkpoint.errors import CheckpointError, first_line
from kanana_jax.checkpoint.objects import UnreachableError


def import_run(run: Path, target: Path) -> None:
    """Writes `target` from the run in the folder `run`, e.g. runs/NAME/run.

    Holds the parameters in memory once, in float32. Its checkpoints are where config.json says.
    """
    exp, workdir = _experiment(run)
    cfg = native.model_config(exp["model"])
    where = _where(exp, workdir, run)
    try:
        weights = _restore(where, native.abstract(cfg, jnp.float32))
    except UnreachableError as error:
        raise CheckpointError(str(error)) from error
    start = Path(exp["train"]["init_from"])
    extra = native.read_description(start).extra if exp["train"]["init_from"] else {}
    tokenizer = _tokenizer(exp, workdir)
    with native.new_directory(target) as folder:
        native.write(folder, native.Description(cfg, extra), jax.tree.map(native.streamed, weights))
        if exp["train"]["init_from"]:
            native.copy_tokenizer(start, folder)
        elif tokenizer is not None:
            shutil.copyfile(tokenizer, folder / "tokenizer.json")
            if exp["data"]["tokenizer"] == "bpe":
                said = tokenizer_config(hf_files.read_json(tokenizer))
                (folder / "tokenizer_config.json").write_text(json.dumps(said))


def tokenizer_config(tokenizer: dict[str, Any]) -> dict[str, Any]:
    """What training did with the special tokens of the tokenizer.json that it made, for others."""
    bos, eos = (token["content"] for token in tokenizer["added_tokens"])
    return {"bos_token": bos, "eos_token": eos, "add_bos_token": True}


def _experiment(run: Path) -> tuple[dict[str, Any], Path]:
    """(configuration, working directory) of a run, which lies one or two folders below it."""
    for workdir in (run.parent, run.parent.parent):
        if run.is_dir() and (workdir / "config.json").exists():
            exp = hf_files.read_json(workdir / "config.json")
            edits = [edit for arm in exp["arms"] for edit in arm["edits"]]
            if any(edit.startswith("model.") for edit in edits):
                raise CheckpointError(
                    f"{workdir} compares models, so its config.json does not say which {run} is; "
                    "run the arm as an experiment of its own"
                )
            return exp, workdir
    raise CheckpointError(f"expected the folder of a training run, below a config.json; got {run}")


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
        found = [
            shards.place(shards.read(newest.below("state"), path, leaves[path], x), x)
            for path, x in shards.paths(like).items()
        ]
        return jax.tree.unflatten(jax.tree.structure(like), found)
    except UnreachableError:
        raise
    except Exception as error:  # damaged files fail in too many ways to list
        raise CheckpointError(
            f"{newest} cannot be used ({first_line(error)}); start the training command again, "
            "which sets damaged checkpoints aside"
        ) from error


def _tokenizer(exp: dict[str, Any], workdir: Path) -> Path | None:
    """The tokenizer.json of a run that started from nothing; None for bytes."""
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
