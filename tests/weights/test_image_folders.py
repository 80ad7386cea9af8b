"""Models with an encoder of images in the layout of kimi_k25, which transformers reads alike."""

import functools
import json
from pathlib import Path

import hf_folder
import image_cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kanana_jax import convert, model
from kanana_jax.checkpoint.errors import CheckpointError
from kanana_jax.data import images, inserted
from kanana_jax.model import presets
from kanana_jax.weights import hf, hf_image_config, native

GOLDEN = np.load(Path(__file__).with_name("image_golden.npz"))
# These turn most switches of the encoder.
FAST = ("two_grids", "merge_of_three")


def _write(folder, name, changes=None, drop=()):
    weights = image_cases.tensors(
        name, hf_folder.shapes(image_cases.fields(name)["text_config"])
    ) | (changes or {})
    weights = {key: x for key, x in weights.items() if key not in drop}
    return image_cases.write(folder, name, weights)


def _inputs(cfg, name):
    """The prompt as the model reads it."""
    ids = np.array([image_cases.ids(name)], np.int32)
    is_image = ids == image_cases.IMAGE
    pictures = [images.of_image(cfg.vision, one) for one in image_cases.pictures(name)]
    room = sum(len(one.places) for one in pictures)
    slots = images.slots_of(is_image[0])
    row = images.row_of(pictures, room, slots, cfg.vision.patch_values)
    tokens = np.where(is_image, inserted.PLACEHOLDER, ids)
    return model.Inputs.of_tokens(jnp.asarray(tokens))._replace(features=images.stacked([row]))


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [pytest.param(x, marks=[] if x in FAST else pytest.mark.long) for x in image_cases.CASES],
)
def test_logits_equal_those_of_transformers_and_a_round_trip_changes_no_bit(name, tmp_path):
    source = _write(tmp_path / "hf", name)
    assert hf.import_directory(source, tmp_path / "native", with_images=True) == []
    cfg = native.read_description(tmp_path / "native").cfg
    weights = native.restore(tmp_path / "native", native.abstract(cfg, jnp.float32))
    apply = jax.jit(
        functools.partial(model.apply, cfg, execution=presets.LAPTOP),
        compiler_options={"xla_backend_optimization_level": 0},
    )
    got, _ = apply(weights, _inputs(cfg, name))
    np.testing.assert_allclose(got[0], GOLDEN[name], rtol=0, atol=1e-4)

    hf.export_directory(tmp_path / "native", tmp_path / "back")
    theirs, back = hf_folder.read(source), hf_folder.read(tmp_path / "back")
    assert back.keys() == theirs.keys()
    for tensor, x in theirs.items():
        np.testing.assert_array_equal(back[tensor], x, tensor)
    written = json.loads((tmp_path / "back" / "config.json").read_text())
    fields = image_cases.fields(name)
    for part in ("text_config", "vision_config"):
        # Clips, whose positions in time this is, are not read.
        kept = {key: x for key, x in fields[part].items() if key != "pos_emb_time"}
        assert kept.items() <= written[part].items(), part
    assert written["image_token_id"] == image_cases.IMAGE


def test_there_are_numbers_for_every_case():
    assert set(GOLDEN.files) == set(image_cases.CASES) and len(image_cases.CASES) >= 8


def test_without_images_the_language_model_alone_is_imported(tmp_path, capsys):
    source = _write(tmp_path / "hf", "plain")
    convert.main([f"--from-hf={source}", f"--to={tmp_path / 'text'}"])
    count = len(image_cases.shapes_of_images("plain"))
    shown = capsys.readouterr().out
    assert shown == f"left out {count} tensors, of mm_projector, vision_tower\n"
    assert native.read_description(tmp_path / "text").cfg.vision is None


def test_published_names_of_fields_mean_the_same():
    fields = image_cases.fields("plain")
    published = {
        {
            "hidden_size": "vt_hidden_size",
            "num_hidden_layers": "vt_num_hidden_layers",
            "num_attention_heads": "vt_num_attention_heads",
            "intermediate_size": "vt_intermediate_size",
            "pos_emb_height": "init_pos_emb_height",
            "pos_emb_width": "init_pos_emb_width",
        }.get(key, key): x
        for key, x in fields["vision_config"].items()
    }
    want = hf_image_config.from_hf(fields)
    assert hf_image_config.from_hf(fields | {"vision_config": published}) == want
    both = published | {"hidden_size": 99}
    with pytest.raises(CheckpointError, match="hidden_size is 99, but vt_hidden_size 16"):
        hf_image_config.from_hf(fields | {"vision_config": both})


@pytest.mark.parametrize(
    ("changes", "drop", "message"),
    [
        ({}, ("mm_projector.proj.0.bias",), r"missing mm_projector\.proj\.0\.bias"),
        ({"vision_tower.more": np.ones(2, np.float32)}, (), "not of this .*vision_tower.more"),
        (
            {"vision_tower.encoder.blocks.1.wqkv.bias": np.ones(47, np.float32)},
            (),
            r"wqkv\.bias: expected rows of queries, keys and values",
        ),
        (
            {"vision_tower.patch_embed.proj.weight": np.ones((16, 1, 2, 2), np.float32)},
            (),
            r"must have shape \(16, 3, 2, 2\) by config\.json, got \(16, 1, 2, 2\)",
        ),
    ],
)
def test_tensors_that_are_not_those_of_the_encoder_are_refused(changes, drop, message, tmp_path):
    source = _write(tmp_path / "hf", "plain", changes, drop)
    with pytest.raises(CheckpointError, match=message):
        hf.import_directory(source, tmp_path / "native", with_images=True)
    assert not (tmp_path / "native").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "llava"}, "expected model_type 'kimi_k25' with a vision_config, got"),
        ({"vision_config": None}, "expected model_type 'kimi_k25' with a vision_config"),
        ({"projection_layer_norm_eps": 1e-3}, "projection_layer_norm_eps must be 1e-05"),
        (
            {"vision_config": {"patch_size": 2}},
            "vision_config lacks hidden_size, num_hidden_layers",
        ),
        ({"merge_kernel_size": [1, 2]}, "must be two equal sizes, got"),
        ({"pos_emb_width": 5}, "expected a square grid of positions, got 4 x 5"),
        ({"hidden_act": "relu"}, "vision_config: hidden_act must be"),
    ],
)
def test_encoders_of_another_kind_are_refused(changes, message):
    fields = image_cases.fields("plain")
    (name,) = changes
    if name not in fields:
        changes = {"vision_config": fields["vision_config"] | changes}
    with pytest.raises(CheckpointError, match=message):
        hf_image_config.from_hf(fields | changes)
