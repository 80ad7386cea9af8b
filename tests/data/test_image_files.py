"""Files of images: what is read; whatever cannot be used is one error and takes little memory."""

import base64
import io
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from kanana_jax import config
from kanana_jax.data import images

VISION = config.VisionConfig(
    patch_size=4, hidden_size=4, num_layers=1, num_heads=1, intermediate_size=4
)
PIXELS = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)


def _file(image, kind="PNG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


PNG = _file(Image.fromarray(PIXELS))


def test_a_png_is_read_to_the_bit_and_a_jpeg_nearly():
    np.testing.assert_array_equal(images.read(PNG), PIXELS)
    grey = images.read(PNG, num_channels=1)
    np.testing.assert_array_equal(grey[..., 0], np.asarray(Image.fromarray(PIXELS).convert("L")))
    smooth = np.add.outer(np.arange(16), np.arange(24)).astype(np.uint8)[..., None].repeat(3, -1)
    got = images.read(_file(Image.fromarray(smooth), "JPEG", quality=95))
    np.testing.assert_allclose(got.astype(int), smooth, atol=4)


def test_transparent_pixels_are_those_of_white_paper():
    colour = np.zeros((1, 3, 4), np.uint8)
    colour[0, :, 3] = 0, 128, 255
    got = images.read(_file(Image.fromarray(colour)))
    np.testing.assert_array_equal(got[0, :, 0], [255, 127, 0])
    palette = Image.new("P", (2, 1))
    palette.putpalette([10, 20, 30, 40, 50, 60])
    palette.putdata([0, 1])
    got = images.read(_file(palette, transparency=0))
    np.testing.assert_array_equal(got[0], [[255] * 3, [40, 50, 60]])


def test_sixteen_bits_of_grey_become_eight_and_a_turned_photograph_stands_upright():
    deep = Image.fromarray(np.array([[0, 256, 65535]], np.uint16))
    np.testing.assert_array_equal(images.read(_file(deep), num_channels=1)[0, :, 0], [0, 1, 255])
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    got = images.read(_file(Image.fromarray(PIXELS), exif=exif))
    np.testing.assert_array_equal(got, np.rot90(PIXELS, -1))


def _header(width, height):
    """A PNG file that says this size and holds nothing."""

    def chunk(kind, body):
        checked = kind + body
        return struct.pack(">I", len(body)) + checked + struct.pack(">I", zlib.crc32(checked))

    size = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


def _bomb():
    """Few bytes that become 75 MB: an honest header, with more pixels than are allowed."""
    return _file(Image.new("RGB", (5000, 5000)))


BAD = {
    "empty": (b"", "expected a whole PNG or JPEG file, got 0 bytes of none"),
    "text": (b"GIF89a is said here", "expected a whole PNG or JPEG"),
    "another_format": (_file(Image.fromarray(PIXELS), "GIF"), "expected a whole PNG or JPEG"),
    "truncated": (PNG[:-30], "expected a whole PNG or JPEG"),
    "truncated_jpeg": (_file(Image.fromarray(PIXELS), "JPEG")[:200], "expected a whole PNG"),
    "broken": (PNG[:60] + bytes(20) + PNG[80:], "expected a whole PNG or JPEG"),
    "no_pixels": (_header(9, 9), "expected a whole PNG or JPEG"),
    "bomb": (_bomb(), "expected at most 16777216 pixels, got 5000 x 5000; make it smaller"),
    "lying_header": (_header(2**31 - 1, 2**31 - 1), r"pixels\) exceeds limit"),
    "huge_header": (_header(60_000, 60_000), r"pixels\) exceeds limit"),
    "line": (_header(100_000, 1), "sides that differ at most by a factor of 200"),
    "large": (b"x" * (20 * 2**20 + 1), "expected an image of at most 20971520 bytes"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_used_is_one_error_and_takes_little_memory(name):
    content, message = BAD[name]
    tracemalloc.start()
    try:
        with pytest.raises(images.ImageError, match=message) as caught:
            images.read(content)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 2**20
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 800


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=40), st.integers(0, len(PNG)), st.integers(0, 40))
def test_damage_anywhere_is_an_image_error_or_an_image(damage, begin, cut):
    try:
        found = images.read(PNG[:begin] + damage + PNG[begin + cut :])
    except images.ImageError:
        return
    assert found.dtype == np.uint8 and found.ndim == 3


@settings(max_examples=80, deadline=None)
@given(st.integers(1, 300), st.integers(1, 300), st.integers(4, 200))
def test_an_image_is_fitted_into_its_patches_and_keeps_its_form(height, width, max_patches):
    picture = np.full((height, width, 3), 255, np.uint8)
    made = images.fitted(VISION, picture, max_patches)
    patches = images.of_image(VISION, made)
    assert len(patches.places) <= max_patches
    inside = made[..., 0] > 0
    rows, columns = inside.any(1).sum(), inside.any(0).sum()
    assert inside[:rows, :columns].all() and inside.sum() == rows * columns
    # Padding is less than a square, and nothing is scaled up.
    assert made.shape[0] - rows < 8 and made.shape[1] - columns < 8
    assert rows <= height and columns <= width
    if (rows, columns) != (height, width):
        assert abs(rows - columns * height / width) <= 1 + height / width
    else:
        np.testing.assert_array_equal(made[:rows, :columns], picture)


def test_an_image_without_room_for_a_square_is_refused():
    with pytest.raises(images.ImageError, match="room for a square of 4 patches, got 3"):
        images.fitted(VISION, PIXELS, 3)


def _url(content, kind="image/png"):
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def test_a_data_url_holds_its_image():
    np.testing.assert_array_equal(images.of_data_url(_url(PNG)), PIXELS)
    # The content decides.
    np.testing.assert_array_equal(images.of_data_url(_url(PNG, "image/jpeg")), PIXELS)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("https://example.com/a.png", "nothing is fetched"),
        ("file:///etc/passwd", "nothing is fetched"),
        ("data:image/svg+xml;base64,AAAA", "nothing is fetched"),
        ("data:image/png,AAAA", "nothing is fetched"),
        ("data:image/png;base64", "nothing is fetched"),
        ("", "nothing is fetched"),
        ("data:image/png;base64,A*A=", "expected base64 behind"),
        ("data:image/png;base64,AAAA", "expected a whole PNG or JPEG file, got 3 bytes"),
        (_url(b"x" * (20 * 2**20 + 9)), "at most 20971520 bytes, got about"),
    ],
    ids=lambda one: one[:30],
)
def test_other_urls_are_refused(url, message):
    with pytest.raises(images.ImageError, match=message):
        images.of_data_url(url)
