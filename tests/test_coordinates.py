"""What the coordinate check measures, and what it says of it."""

import json

import jax
import numpy as np
import pytest
import tiny_jobs

from kanana_jax import config, coordinates, model
from kanana_jax.batch import Batch
from kanana_jax.model import presets, streams


@pytest.mark.slow
def test_layers_one_by_one_are_the_model():
    cfg = presets.tiny_family(32, vocab_size=31)
    inputs = Batch.of_tokens(np.random.default_rng(0).integers(0, 31, (2, 9))).inputs

    @jax.jit
    def both(key):
        weights = model.init(cfg, key)
        logits, _ = model.apply(cfg, weights, inputs, presets.LAPTOP)
        return logits, streams.activations(cfg, weights, inputs, presets.LAPTOP)

    logits, found = both(jax.random.key(0))
    np.testing.assert_allclose(found["logits"], logits, rtol=1e-4, atol=1e-6)
    added = found["layer 2 attention"] + found["layer 2 mlp"]
    np.testing.assert_allclose(
        found["layer 1 stream"] + added, found["layer 2 stream"], rtol=1e-4, atol=1e-6
    )


def changed(slope, name="logits", rule="none"):
    return [
        coordinates.Change(rule, width, seed, 10, name, 0.3 * width**slope * (1 + 0.01 * seed))
        for width in (32, 64, 128)
        for seed in range(2)
    ]


@pytest.mark.parametrize(("slope", "is_flat"), [(0.0, True), (0.05, True), (-0.2, False)])
def test_a_slope_over_widths_is_flat_up_to_a_tenth(slope, is_flat):
    (found,) = coordinates.slopes(changed(slope))
    np.testing.assert_allclose(found.value, slope, atol=1e-9)
    assert found.is_flat == is_flat and found.band < 0.05


def test_the_table_marks_what_is_steep(tmp_path):
    found = [
        *changed(0.5),
        *changed(0.0, rule="half"),
        *changed(0.0, "layer 1 mlp"),
        *changed(0.0, "layer 1 mlp", "half"),
    ]
    shown = coordinates.text(coordinates.slopes(found)).splitlines()
    assert next(one for one in shown if one.startswith("logits")).count("*") == 1
    assert shown[-2].split() == ["flat", "1", "of", "2", "2", "of", "2"]
    coordinates.draw(found, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--widths=32"], "--widths must be two or more"),
        (["--widths=32,x"], "--widths must be whole numbers"),
        (["--rules=mup"], "transfer must be one of"),
        (["--widths=32,40"], "no whole number"),
    ],
)
def test_what_cannot_be_compared_is_refused_in_one_line(arguments, message, capsys):
    with pytest.raises(SystemExit, match="2"):
        coordinates.main(arguments)
    shown = capsys.readouterr().err
    assert message in shown and shown.count("\n") == 1


def test_rules_differ_in_the_optimizer_alone():
    data_cfg = config.DataConfig(seq_len=64, batch_size=8)
    none = coordinates.training("none", 64, 32, 0.01, data_cfg)
    half = coordinates.training("half", 64, 32, 0.01, data_cfg)
    assert none.model == half.model and none.optimizer != half.optimizer


@pytest.mark.long
def test_logits_move_alike_by_the_spectral_rule_and_not_without_one(tmp_path):
    tiny_jobs.write_text(tmp_path / "words.txt")
    arguments = ["--rules=none,spectral", "--widths=32,128", "--seeds=1"]
    coordinates.main([*arguments, f"--path={tmp_path / 'words.txt'}", f"--out={tmp_path}"])
    record = json.loads((tmp_path / "coordinates.json").read_text())
    found = {(x["rule"], x["name"]): x["value"] for x in record["slopes"] if x["step"] == 10}
    assert found["none", "logits"] > 0.4
    assert abs(found["spectral", "logits"]) < 0.2
    assert abs(found["spectral", "layer 2 mlp"]) < abs(found["none", "layer 2 mlp"])
