"""Conversations with images: their rows, what is left out, and what is refused."""

import base64
import io
import json

import numpy as np
import pytest
from PIL import Image

from kanana_jax import config
from kanana_jax.data import images
from kanana_jax.data.errors import DataError
from kanana_jax.data.images import chats
from kanana_jax.data.images.chats import documents

VISION = config.VisionConfig(
    patch_size=4,
    num_channels=1,
    hidden_size=4,
    num_layers=1,
    num_heads=1,
    intermediate_size=4,
)
SIZES = ((8, 8), (16, 8), (8, 24), (40, 40))  # height and width; the last one is made smaller


def _pixels(number):
    size = SIZES[number % len(SIZES)]
    return np.random.default_rng(number).integers(0, 256, size, dtype=np.uint8)


def _png(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def _record(number, *parts):
    said = [{"role": "user", "content": [*parts, {"type": "text", "text": f"what is {number}?"}]}]
    return {"messages": [*said, {"role": "assistant", "content": f"it is {number}"}]}


def _path(number):
    return {"type": "image", "path": f"{number}.png"}


def _url(content):
    url = f"data:image/png;base64,{base64.b64encode(content).decode()}"
    return {"type": "image_url", "image_url": {"url": url}}


def _write(folder, records):
    path = folder / "chats.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in records))
    return path


def _cfg(path, **changes):
    options = {"seq_len": 128, "batch_size": 2, "image_patches": 64, "heldout_fraction": 0.2}
    return config.DataConfig(paths=(str(path),), **options | changes)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Twelve conversations with an image, one with two, one without."""
    made = tmp_path_factory.mktemp("chats")
    for number in range(12):
        (made / f"{number}.png").write_bytes(_png(_pixels(number)))
    records = [_record(number, _path(number)) for number in range(12)]
    records += [_record(100, _path(0), _url(_png(_pixels(1)))), _record(101)]
    _write(made, records)
    return made


@pytest.fixture(scope="module")
def found(folder):
    return chats.read(_cfg(folder / "chats.jsonl"), folder)


def _stands(batch, row, segment):
    """The pixels of patches that stand in a segment, in the order of its positions."""
    is_here = (batch.segment_ids[row] == segment) & (batch.features.slots[row] >= 0)
    squares = batch.features.pixels[row].reshape(-1, 4, VISION.patch_values)
    return squares[batch.features.slots[row][is_here]].reshape(-1, VISION.patch_values)


def test_every_row_has_the_images_of_its_conversations_where_they_stand(found):
    cfg = _cfg("unused")
    whole = documents(found, VISION, cfg)
    seen = set()
    for number in range(8):
        batch = whole.train_batch(cfg, number)
        for row in range(2):
            for segment in range(1, batch.segment_ids[row].max() + 1):
                here = batch.segment_ids[row] == segment
                text = bytes(x for x in batch.targets[row][here] if x < 256).decode(errors="ignore")
                (name,) = {int(x.split("?")[0]) for x in text.split("what is ")[1:]}
                seen.add(name)
                own = {100: (0, 1), 101: ()}.get(name, (name,))
                wanted = []
                for one in own:
                    room = 64 // len(own)
                    fitted = images.fitted(VISION, _pixels(one)[..., None], room)
                    wanted += [*images.of_image(VISION, fitted).pixels]
                got = _stands(batch, row, segment)
                np.testing.assert_array_equal(got, np.reshape(wanted, (-1, VISION.patch_values)))
                trained = batch.targets[row][here & (batch.loss_mask[row] == 1)]
                assert bytes(trained[:-1].tolist()).decode() == f"it is {name}"
    assert len(seen) >= 10


def test_images_fill_rows_as_text_does(found):
    """More conversations would have room by their text alone."""
    cfg = _cfg("unused", seq_len=512)
    for number in range(4):
        batch = documents(found, VISION, cfg).train_batch(cfg, number)
        num_patches = (batch.features.image_ids > 0).sum(axis=1)
        assert num_patches.max() <= 64
        assert (batch.segment_ids > 0).sum(axis=1).max() < 400
    held = documents(found, VISION, cfg).heldout_batches(cfg, 1)
    assert held[0].features.pixels.shape == (2, 64, 16)


BAD = {
    "truncated.png": (_png(_pixels(0))[:60], "expected a whole PNG or JPEG"),
    "text.png": (b"no image", "expected a whole PNG or JPEG"),
    "bomb.png": (_png(np.zeros((5000, 5000), np.uint8)), "expected at most 16777216 pixels"),
    "absent.png": (None, "expected the image 'absent.png' beside"),
    "../chats.jsonl": (None, "expected a path below the folder"),
}


def test_bad_images_leave_their_conversations_out_and_are_counted(tmp_path):
    records, told = [_record(n, _url(_png(_pixels(n)))) for n in range(6)], []
    for number, (name, (content, _)) in enumerate(BAD.items()):
        if content is not None:
            (tmp_path / name).write_bytes(content)
        records.append(_record(50 + number, {"type": "image", "path": name}))
    records.append(_record(60, {"type": "image_url", "image_url": {"url": "https://x.y/z.png"}}))
    found = chats.read(_cfg(_write(tmp_path, records)), tmp_path, told.append)
    assert len(found.chats) == 6 and found.num_skipped == len(BAD) + 1
    (line,) = told
    assert "6 line(s) left out" in line and "line 7: message 1, part 1: expected a whole" in line
    for name, (content, message) in BAD.items():
        if content is not None:
            with pytest.raises(images.ImageError, match=message):
                images.read(content)
        else:
            record = [_record(0, {"type": "image", "path": name})]
            with pytest.raises(DataError, match=message):
                chats.read(_cfg(_write(tmp_path, record)), tmp_path)


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"type": "text", "text": images.MARK}, "expected text without"),
        ({"type": "video", "path": "a"}, "of type 'video'"),
        ("text", "of type None"),
        ({"type": "text", "text": 3}, "of type 'text'"),
    ],
)
def test_records_of_another_form_are_errors_with_file_and_line(part, message, tmp_path):
    path = _write(tmp_path, [_record(0), _record(1, part), _record(2)])
    with pytest.raises(DataError, match=rf"line 2.*{message}"):
        chats.read(_cfg(path), tmp_path)
    found = chats.read(_cfg(path, skip_bad_lines=True), tmp_path)
    assert len(found.chats) == 2 and found.num_skipped == 1


def test_a_conversation_that_a_row_has_no_room_for_is_named(found):
    with pytest.raises(DataError, match=r"line \d+: expected at most data\.seq_len = 24 tokens"):
        documents(found, VISION, _cfg("unused", seq_len=24))


def test_another_image_is_another_corpus(folder, found, tmp_path):
    for number in range(12):
        (tmp_path / f"{number}.png").write_bytes(_png(_pixels(number + (number == 3) * 4)))
    (tmp_path / "chats.jsonl").write_text((folder / "chats.jsonl").read_text())
    other = chats.read(_cfg(tmp_path / "chats.jsonl"), tmp_path)
    assert other.digest != found.digest
    assert chats.read(_cfg(folder / "chats.jsonl"), folder).digest == found.digest
