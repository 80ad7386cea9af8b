"""Prompts with images: the sampler reads what the trainer reads."""

import dataclasses

import jax
import numpy as np
import pytest
import small_decoder
import small_engine

from kanana_jax import model
from kanana_jax.batch import Batch
from kanana_jax.data import images, inserted
from kanana_jax.generate import Request, Room, Sampling, answers
from kanana_jax.generate.requests import RequestError
from kanana_jax.model import presets
from kanana_jax.train import forward

pytestmark = pytest.mark.slow

CFG = small_decoder.READER
PATCHES = 8
# Chunks of 8 positions cut each image; the last image appears twice, as in a second look.
SPANS = ([range(2)], [range(2)], [range(2), range(2)])


def _request(number: int, spans: list[range], num_new: int = 6) -> Request:
    rng = np.random.default_rng(number)
    text = rng.integers(0, CFG.vocab_size, 6).tolist()
    ids, slots = text[:], [-1] * 6
    for span in spans:
        ids += [inserted.PLACEHOLDER] * len(span) + text[:2]
        slots += [*span, -1, -1]
    pixels = rng.integers(0, 256, (4, 8, 1), dtype=np.uint8)
    patches = images.of_image(CFG.vision, pixels)
    row = images.row_of([patches], PATCHES, np.array(slots, np.int32), CFG.vision.patch_values)
    return Request(prompt=ids, max_tokens=num_new, sampling=Sampling(seed=3), features=row)


@pytest.fixture(scope="module")
def stacks():
    return small_decoder.random_weights(CFG)


@pytest.mark.long
def test_the_trainer_finds_what_was_drawn_as_likely_as_the_sampler(stacks):
    requests = [_request(n, spans) for n, spans in enumerate(SPANS)]
    # The same text after another image, and without one.
    requests.append(dataclasses.replace(requests[0], features=_request(7, SPANS[0]).features))
    requests.append(dataclasses.replace(requests[0], features=None))
    engine = small_engine.make(
        CFG,
        stacks,
        room=Room(image_patches=PATCHES),
        with_routes=False,
        num_rows=5,
        prompts_at_once=2,
    )
    found = answers(engine, requests)

    logp = jax.jit(
        lambda batch: forward.log_probabilities(stacks, batch, cfg=CFG, execution=presets.LAPTOP)
    )
    for request, answer in zip(requests, found, strict=True):
        ids = np.array([[*request.prompt, *answer.ids]], np.int32)
        batch = _padded(Batch.of_tokens(ids), request.features)
        got = np.asarray(logp(batch))[0, len(request.prompt) - 1 :][: len(answer.ids)]
        np.testing.assert_allclose(got, answer.logps, atol=1e-4)
    firsts = {answer.logps[0] for answer in (found[0], found[3], found[4])}
    assert len(firsts) == 3  # the image decides what follows


def _padded(batch: Batch, of_row: model.Images | None) -> Batch:
    """Padded to one length, so that little is compiled; a row without images has no used slot."""
    length = 20
    filled = batch.map(lambda x: np.pad(x, ((0, 0), (0, length - x.shape[1]))))
    if of_row is None:
        of_row = images.row_of([], PATCHES, np.full(0, -1, np.int32), CFG.vision.patch_values)
    slots = np.pad(of_row.slots, (0, length - len(of_row.slots)), constant_values=-1)
    return filled._replace(features=images.stacked([of_row._replace(slots=slots)]))


def test_images_that_do_not_fit_are_refused_before_anything_runs(stacks):
    engine = small_engine.make(CFG, stacks, room=Room(image_patches=4), with_routes=False)
    with pytest.raises(RequestError, match="at most 4 patches, got 8"):
        engine.check(_request(0, SPANS[0]))
    engine = small_engine.make(CFG, stacks, room=Room(image_patches=8), with_routes=False)
    cut = dataclasses.replace(_request(0, SPANS[0]), prompt=[1, 2])
    with pytest.raises(RequestError, match="each of the 2 positions"):
        engine.check(cut)
