"""A grown and a pruned model train on a mesh, and decode."""

import dataclasses

import jax
import numpy as np
import pytest

from kanana_jax import convert, model
from kanana_jax.generate import __main__ as generate_command
from kanana_jax.jobs import pretrain
from kanana_jax.weights import native


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    [["--grow", "experts=2", "interpose_zero=1", "--noise=0.01"], ["--prune", "kv_lora_rank=12"]],
    ids=["grown", "pruned"],
)
def test_what_is_made_of_a_model_trains_and_decodes(change, cfg, tmp_path, capsys):
    shape = dataclasses.replace(cfg.model, vocab_size=258)
    weights = jax.tree.map(np.asarray, model.init(shape, jax.random.key(0)))
    with native.new_directory(tmp_path / "start") as folder:
        parts = jax.tree.map(native.streamed, native.stored(weights))
        native.write(folder, native.Description(shape, {}, "float32"), parts)
    if "--prune" in change:
        change = [*change, "--calibrate", *cfg.data.paths, "--samples=2", "--length=32"]
    made = tmp_path / "made"
    convert.main([*change, f"--from={tmp_path / 'start'}", f"--to={made}"])
    edits = [f"train.init_from={made}", "train.num_steps=1", "data.tokenizer=bytes"]
    edits += ["mesh.data=4", "mesh.fsdp=2"]
    pretrain.run(cfg.edited(edits), tmp_path / "run")
    convert.main([f"--from-run={tmp_path / 'run' / 'run'}", f"--to={tmp_path / 'trained'}"])
    assert native.read_description(tmp_path / "trained").cfg == native.read_description(made).cfg
    capsys.readouterr()
    generate_command.main(
        [f"--checkpoint={tmp_path / 'trained'}", "--prompt=muon", "--max-tokens=4"]
    )
    assert capsys.readouterr().out.endswith("\n")
