"""Means of models: equal to a moving average, of folders of either kind, of a run's checkpoints."""

import dataclasses
import re

import hf_folder
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import parity_cases
import pytest
from small_models import CFG, folder, random_weights, restored, run_of

from kanana_jax import convert, optim
from kanana_jax.checkpoint import CheckpointError
from kanana_jax.weights import hf, merge, native

EXACT = {"rtol": 1e-6, "atol": 1e-6}  # float32, a few terms


def _weighted(models, weights):
    """Of trees, in float64."""
    shares = np.array(weights) / np.sum(weights)
    return jax.tree.map(
        lambda *xs: sum(w * np.asarray(x, np.float64) for w, x in zip(shares, xs, strict=True)),
        *models,
    )


def _assert_close(found, wanted, **bound):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, **(bound or EXACT)), found, wanted)


@pytest.mark.long
def test_geometric_weights_give_the_moving_average(tmp_path):
    """Of the trainer's: it begins at the first model and takes each of the others in."""
    decay, models = 0.6, [random_weights(seed).params for seed in range(4)]
    optimizer = optim.weight_average(decay)
    average, params = optimizer.init(models[0]), models[0]
    for newer in models[1:]:
        updates = jax.tree.map(lambda x, y: y - x, params, newer)
        _, average = optimizer.update(updates, average, params)
        params = optax.apply_updates(params, updates)
    weights = [decay**3, *(0.4 * decay**k for k in (2, 1, 0))]
    found = jax.tree.map(lambda *xs: merge.mean([np.asarray(x) for x in xs], weights), *models)
    _assert_close(found, optim.averaged_params(average, params))
    with pytest.raises(AssertionError):
        _assert_close(found, _weighted(models, (1, 1, 1, 1)))


def test_folders_are_merged_by_their_weights_and_the_bias_with_them(tmp_path):
    models = [random_weights(seed) for seed in range(3)]
    folders = [folder(tmp_path / f"{i}", one, tokenizer="{}") for i, one in enumerate(models)]
    convert.main(["--merge", *map(str, folders), f"--to={tmp_path / 'to'}", "--weights=2,3,5"])
    _assert_close(restored(tmp_path / "to"), _weighted(models, (2, 3, 5)))
    assert np.any(np.asarray(models[0].buffers["router_bias"]) != 0.0)
    assert native.read_description(tmp_path / "to") == native.Description(CFG, {}, "float32")
    assert (tmp_path / "to" / "tokenizer.json").read_text() == "{}"
    convert.main(["--merge", *map(str, folders), f"--to={tmp_path / 'equal'}"])
    _assert_close(restored(tmp_path / "equal"), _weighted(models, (1, 1, 1)))


def _leaf(where, path):
    return np.asarray(native.part_reader(where)(path).read().result())


@pytest.mark.long
def test_a_mean_of_16_bits_is_rounded_once_or_stays_float32_where_that_is_asked(tmp_path):
    like = native.abstract(CFG, jnp.bfloat16)
    models = [
        jax.tree.map(lambda x, y: x.astype(y.dtype), random_weights(seed), like)
        for seed in range(3)
    ]
    folders = [str(folder(tmp_path / f"{i}", one)) for i, one in enumerate(models)]
    convert.main(["--merge", *folders, f"--to={tmp_path / 'narrow'}"])
    convert.main(["--merge", *folders, f"--to={tmp_path / 'wide'}", "--dtype=float32"])
    exact = _weighted(models, (1, 1, 1))
    for path, x in (
        ("params/embed", exact.params["embed"]),
        ("params/moe_layers/mlp/w_down", exact.params["moe_layers"]["mlp"]["w_down"]),
    ):
        narrow, wide = _leaf(tmp_path / "narrow", path), _leaf(tmp_path / "wide", path)
        assert (narrow.dtype, wide.dtype) == (ml_dtypes.bfloat16, np.float32)
        np.testing.assert_allclose(wide, x, **EXACT)
        np.testing.assert_array_equal(narrow, wide.astype(ml_dtypes.bfloat16))


def test_the_bias_is_float32_whatever_dtype_is_asked_for(tmp_path):
    source = folder(tmp_path / "one", random_weights())
    convert.main(["--merge", str(source), f"--to={tmp_path / 'to'}", "--dtype=bfloat16"])
    assert _leaf(tmp_path / "to", "router_bias").dtype == np.float32
    assert _leaf(tmp_path / "to", "params/embed").dtype == ml_dtypes.bfloat16


def test_models_that_are_alike_give_themselves_whatever_kind_of_folder(tmp_path):
    fields = parity_cases.CASES["like_deepseek"]
    weights = hf_folder.tensors(fields, ml_dtypes.bfloat16)
    source = hf_folder.write(tmp_path / "hf", fields, weights)
    hf.import_directory(source, tmp_path / "native")
    folders = [str(source), str(tmp_path / "native"), str(source)]
    convert.main(["--merge", *folders, f"--to={tmp_path / 'to'}", "--weights=0.1,0.7,0.3"])
    convert.main([f"--from={tmp_path / 'to'}", f"--to-hf={tmp_path / 'back'}"])
    back = hf_folder.read(tmp_path / "back")
    assert back.keys() == weights.keys()
    for tensor, x in weights.items():
        assert back[tensor].dtype == x.dtype
        np.testing.assert_array_equal(back[tensor].view(np.uint8), x.view(np.uint8), tensor)


def _refused(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        convert.main(arguments)
    assert stopped.value.code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("other", "weights", "message"),
    [
        (
            {"cfg": dataclasses.replace(CFG, rope_theta=9.0)},
            "1,1",
            f"but there are model.rope_theta: {CFG.rope_theta} -> 9.0;",
        ),
        ({"tokenizer": "[]"}, "1,1", "must have the tokenizer of .* differ in tokenizer.json;"),
        (
            {"generation_config": "{}"},
            "1,1",
            "must have the tokenizer of .* differ in generation_config.json;",
        ),
        ({}, "1,1,1", "a number over 0 for each of 2 models; got 1.0, 1.0, 1.0"),
        ({}, "1,0", "a number over 0 for each of 2 models; got 1.0, 0.0"),
        ({}, "1,nan", "a number over 0 for each of 2 models; got 1.0, nan"),
        ({}, "1,a", "expected numbers with commas between them, got '1,a'"),
    ],
)
def test_what_cannot_be_merged_is_refused_with_what_differs(
    other, weights, message, tmp_path, capsys
):
    made = random_weights()
    folders = [
        folder(tmp_path / "one", made, tokenizer="{}"),
        folder(tmp_path / "other", made, **({"tokenizer": "{}"} | other)),
    ]
    arguments = ["--merge", *map(str, folders), f"--to={tmp_path / 'to'}", f"--weights={weights}"]
    assert re.search(message, _refused(arguments, capsys))
    assert {path.name for path in tmp_path.iterdir()} == {"one", "other"}


def _states(models):
    return {4 * step: {"weights": one} for step, one in enumerate(models, start=1)}


def test_the_newest_checkpoints_of_a_run_are_merged_from_the_oldest_on(tmp_path):
    models = [random_weights(seed) for seed in range(4)]
    run = run_of(tmp_path / "work", _states(models))
    options = [f"--merge-run={run}", "--last=3", f"--to={tmp_path / 'to'}"]
    convert.main([*options, "--weights=2,3,5"])
    _assert_close(restored(tmp_path / "to"), _weighted(models[1:], (2, 3, 5)))
    merge.merge_run(run, tmp_path / "one", last=1)
    jax.tree.map(np.testing.assert_array_equal, restored(tmp_path / "one"), models[-1])


def test_more_checkpoints_than_there_are_is_refused_with_numbers(tmp_path, capsys):
    run = run_of(tmp_path / "work", _states([random_weights(0), random_weights(1)]))
    error = _refused([f"--merge-run={run}", "--last=3", f"--to={tmp_path / 'to'}"], capsys)
    assert "must have 3 finished checkpoints, got 2, of steps 4, 8;" in error
    assert "train.keep_checkpoints" in error
    assert "at least 1 checkpoint, got 0" in _refused(
        [f"--merge-run={run}", "--last=0", f"--to={tmp_path / 'to'}"], capsys
    )
    assert [path.name for path in tmp_path.iterdir()] == ["work"]


def test_a_damaged_checkpoint_is_named_and_nothing_is_left_of_the_merge(tmp_path):
    run = run_of(tmp_path / "work", _states([random_weights(0), random_weights(1)]))
    damaged = run / "checkpoints" / "4" / "state" / "weights" / "params" / "head" / "0.0"
    content = bytearray(damaged.read_bytes())
    content[7] ^= 1
    damaged.write_bytes(content)
    with pytest.raises(
        CheckpointError, match=r"checkpoints/4 cannot be used \(weights/params/head"
    ):
        merge.merge_run(run, tmp_path / "to", last=2)
    assert [path.name for path in tmp_path.iterdir()] == ["work"]
