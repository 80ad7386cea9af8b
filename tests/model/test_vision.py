"""The encoder of images and its projectors, alone and in a decoder."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from numpy_model import SMALL, VISION, init, jit, silu, weights

from kanana_jax import model
from kanana_jax.batch import Images
from kanana_jax.data import images
from kanana_jax.model import encoders, presets
from kanana_jax.model.vision import projector
from kanana_jax.optim import qk_clip

pytestmark = pytest.mark.slow

PLAIN = dataclasses.replace(SMALL, vision=VISION)
ABSTRACTED = dataclasses.replace(
    SMALL, vision=dataclasses.replace(VISION, projector="c_abstractor")
)
ROOM = 24
SIZES = ((8, 4), (4, 12))  # pixels of the images of a row


def _pixels(size, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (*size, 1), dtype=np.uint8)


def _row(pictures):
    """A batch of one row with these images."""
    patches = [images.of_image(VISION, one) for one in pictures]
    row = images.row_of(patches, ROOM, np.full(1, -1, np.int32), VISION.patch_values)
    return images.stacked([row])


@pytest.fixture(scope="module", params=[PLAIN, ABSTRACTED], ids=["mlp", "c_abstractor"])
def encoder(request):
    """The configuration, and slots of a row of images."""
    cfg = request.param
    params = init(cfg)["vision"]
    run = jit(lambda row: encoders.encode(cfg, presets.LAPTOP, params, row))
    return cfg, lambda pictures: np.asarray(run(_row(pictures)))[0]


def test_an_image_reads_the_same_whatever_lies_beside_it(encoder):
    _, slots_of = encoder
    first, second = (_pixels(size, seed) for seed, size in enumerate(SIZES))
    both = slots_of([first, second])
    np.testing.assert_allclose(both[:2], slots_of([first])[:2], atol=1e-5)
    np.testing.assert_allclose(both[2:5], slots_of([second])[:3], atol=1e-5)
    assert np.abs(both[:2] - slots_of([second])[:2]).max() > 0.01


def test_every_square_of_an_image_is_read_and_where_it_lies_counts(encoder):
    _, slots_of = encoder
    picture = _pixels((8, 4))
    before = slots_of([picture])[:2]
    for y, x in np.ndindex(4, 2):
        changed = picture.copy()
        changed[2 * y, 2 * x] ^= 255
        # Attention carries a change everywhere.
        assert (np.abs(slots_of([changed])[:2] - before).max(axis=1) > 1e-5).all()
    turned = slots_of([np.concatenate([picture[4:], picture[:4]])])[:2]
    assert np.abs(turned - before[::-1]).max() > 0.01


@pytest.mark.long
def test_the_convolution_of_the_abstractor_is_one_over_the_grid():
    """Against sums over a padded grid, for images of two grids in one row."""
    cfg, shape = ABSTRACTED, ABSTRACTED.vision
    rng = np.random.default_rng(1)
    block = projector.Convolutions(cfg, shape, rngs=nnx.Rngs(0))
    row = _row([_pixels(size) for size in SIZES])
    x_PD = rng.standard_normal((ROOM, shape.hidden_size)).astype(np.float32)
    near = projector.neighbours(jnp.asarray(row.places), shape.merge_size)
    got_PD = np.asarray(block(jnp.asarray(x_PD[None]), near))[0]

    norm = (x_PD - x_PD.mean(-1, keepdims=True)) / np.sqrt(x_PD.var(-1, keepdims=True) + 1e-5)
    h_PD = silu(norm @ np.asarray(block.first.w[...]))
    around = np.asarray(block.around[...]).reshape(3, 3, -1)
    begin = 0
    for height, width in SIZES:
        grid = height // 2, width // 2
        span = slice(begin, begin := begin + grid[0] * grid[1])
        y, x = row.places[0, span, 0], row.places[0, span, 1]
        padded = np.zeros((grid[0] + 2, grid[1] + 2, shape.hidden_size))
        padded[1:-1, 1:-1][y, x] = h_PD[span]
        found = sum(
            padded[dy : dy + grid[0], dx : dx + grid[1]] * around[dy, dx]
            for dy, dx in np.ndindex(3, 3)
        )
        wanted = x_PD[span] + silu(found[y, x]) @ np.asarray(block.last.w[...])
        np.testing.assert_allclose(got_PD[span], wanted, atol=1e-5)


@pytest.mark.long
def test_text_is_read_to_the_bit_as_by_a_model_without_an_encoder():
    """With no room for images in the batch, and with room that holds no image."""
    text = dataclasses.replace(SMALL, num_layers=1, num_dense_layers=0)
    cfg = dataclasses.replace(text, vision=dataclasses.replace(VISION, num_heads=4))
    tokens = np.random.default_rng(0).integers(0, SMALL.vocab_size, (1, 12), dtype=np.int32)
    inputs = model.Inputs.of_tokens(jnp.asarray(tokens))
    row = images.row_of([], ROOM, np.full(12, -1, np.int32), VISION.patch_values)
    reader = weights(cfg)
    params = {name: x for name, x in reader.params.items() if name != "vision"}
    want, aux_of_text = jit(functools.partial(model.apply, text, execution=presets.LAPTOP))(
        reader._replace(params=params), inputs
    )
    apply = jit(functools.partial(model.apply, cfg, execution=presets.LAPTOP))
    for features in (None, images.stacked([row])):
        got, aux = apply(reader, inputs._replace(features=features))
        np.testing.assert_array_equal(got, want)
        np.testing.assert_array_equal(aux.max_logits[:1, :2], aux_of_text.max_logits)
        assert np.isneginf(aux.max_logits[:1, 2:]).all()


@pytest.mark.long
def test_qk_clip_scales_the_heads_of_the_encoder():
    """The logits of one head of its last layer fall by gamma, and nothing else moves."""
    cfg, params = PLAIN, init(PLAIN)
    clip = qk_clip(1.0, jax.tree.map(lambda spec: spec.qk_clip, model.describe(cfg)))
    max_logits = np.zeros((cfg.num_layers + VISION.num_layers, 2), np.float32)
    max_logits[-1, 1] = 4.0
    zeros = jax.tree.map(np.zeros_like, params)
    updates, _ = jit(clip.update)(zeros, clip.init(params), params, max_logits=max_logits)
    row = _row([_pixels(SIZES[0])])

    @jit
    def largest(params):
        bound = model.bind(cfg, params, presets.LAPTOP)
        return bound.vision.slots(row)[1]

    before, after = largest(params), largest(jax.tree.map(np.add, params, updates))
    gamma = np.array([[1.0, 1.0], [1.0, 0.25]])
    np.testing.assert_allclose(after, before * gamma, rtol=1e-5)
    text = {name: x for name, x in updates.items() if name != "vision"}
    assert not any(np.any(x) for x in jax.tree.leaves(text))


def test_images_without_an_encoder_are_refused():
    inputs = model.Inputs.of_tokens(jnp.zeros((1, 4), jnp.int32))
    row = images.row_of([], 4, np.full(4, -1, np.int32), VISION.patch_values)
    with pytest.raises(ValueError, match=r"got model\.vision = None"):
        jax.eval_shape(
            lambda: model.apply(
                SMALL,
                weights(SMALL),
                inputs._replace(features=Images(*images.stacked([row]))),
                presets.LAPTOP,
            )
        )


def test_slots_stand_in_the_place_of_tokens():
    x = jnp.arange(8.0).reshape(1, 4, 2)
    slots = jnp.full((1, 3, 2), 9.0).at[0, 2].set(7.0)
    got = encoders.insert(x, slots, jnp.array([[-1, 2, 0, -1]]))
    np.testing.assert_array_equal(got[0], [[0, 1], [7, 7], [9, 9], [6, 7]])


def test_pixels_are_cut_into_patches_square_by_square():
    """Against a loop; each channel of a patch stays together."""
    shape = dataclasses.replace(VISION, num_channels=3)
    picture = np.random.default_rng(0).integers(0, 256, (4, 8, 3), dtype=np.uint8)
    found = images.of_image(shape, picture)
    wanted, places = [], []
    for square in range(2):
        for y, x in np.ndindex(2, 2):
            x += 2 * square
            wanted.append(picture[2 * y : 2 * y + 2, 2 * x : 2 * x + 2].transpose(2, 0, 1).ravel())
            places.append((y, x, 2, 4))
    np.testing.assert_array_equal(found.pixels, wanted)
    np.testing.assert_array_equal(found.places, places)
