"""Images in chats: the server reads what the engine reads, and refuses what it cannot."""

import base64
import io

import numpy as np
import pytest
import small_decoder
from PIL import Image
from served import Served, write_model

from kanana_jax import generate
from kanana_jax.data import chat, images, inserted
from kanana_jax.generate import Room, media_prompts, serve
from kanana_jax.generate.chat import ChatError
from kanana_jax.weights import hf_image_config

pytestmark = pytest.mark.slow

VISION = small_decoder.READER.vision
PATCHES, LENGTH = 16, 64
# Parts of a message; an image is a byte that no text of these tests has.
FOREIGN = (
    "{% for m in messages %}{{ m.role }}:{% if m.content is string %}{{ m.content }}{% else %}"
    "{% for p in m.content %}{{ p.text if p.type == 'text' else '~' }}{% endfor %}{% endif %};"
    "{% endfor %}"
)


def _pixels(seed, size=(4, 8)):
    return np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8)


def _part(pixels, **more):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    url = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
    return {"type": "image_url", "image_url": {"url": url, **more}}


def _body(*content):
    parts = [{"type": "text", "text": one} if isinstance(one, str) else one for one in content]
    return {
        "messages": [{"role": "user", "content": parts}],
        "max_tokens": 4,
        "seed": 3,
        "logprobs": True,
    }


def _load(folder, template, extra=None):
    write_model(folder, template, small_decoder.READER, extra)
    return generate.load(folder)


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    return _load(tmp_path_factory.mktemp("models") / "reader", chat.PLAIN.template)


@pytest.fixture(scope="module")
def served(loaded):
    engine = loaded.engine(num_rows=2, length=LENGTH, chunk=16, room=Room(image_patches=PATCHES))
    limits = serve.ImageLimits(PATCHES, max_images=2, max_pixels=10_000)
    with Served(loaded, engine=engine, num_rows=2, length=LENGTH, images=limits) as server:
        yield server


def _logprobs(answer):
    assert answer.status == 200, answer.body
    return [one["logprob"] for one in answer.body["choices"][0]["logprobs"]["content"]]


@pytest.mark.long
def test_the_answer_is_that_of_the_engine_on_the_same_pixels(served, loaded):
    first, second = _pixels(0), _pixels(1)
    found = served.fetch("/v1/chat/completions", _body("a", _part(first), "b", _part(second)))
    pieces = chat.PLAIN.render(
        [{"role": "user", "content": f"a{images.MARK}b{images.MARK}"}], (), True
    )
    spans = [range(2), range(2, 4)]
    encoded = inserted.encode(chat.PLAIN, loaded.own_format.tokenizer, pieces, spans, images.MARK)
    patches = [images.of_image(VISION, one[..., None]) for one in (first, second)]
    request = generate.Request(
        prompt=encoded.ids,
        max_tokens=4,
        sampling=generate.Sampling(seed=3),
        features=images.row_of(patches, PATCHES, encoded.slots, VISION.patch_values),
    )
    engine = loaded.engine(num_rows=2, length=LENGTH, chunk=16, room=Room(image_patches=PATCHES))
    (wanted,) = generate.answers(engine, [request])
    np.testing.assert_allclose(_logprobs(found), wanted.logps, atol=1e-4)
    assert found.body["usage"]["prompt_tokens"] == len(encoded.ids)
    turned = served.fetch("/v1/chat/completions", _body("a", _part(second), "b", _part(first)))
    assert abs(_logprobs(turned)[0] - wanted.logps[0]) > 1e-3


@pytest.mark.long
def test_an_image_that_is_too_large_for_a_request_is_made_smaller(served):
    large = _part(_pixels(2, (80, 60)), detail="low")
    answer = served.fetch("/v1/chat/completions", _body(large, "?"))
    # 16 patches are 4 squares, and as many of them as fit stand in the prompt.
    text = served.fetch("/v1/chat/completions", _body("?"))
    more = answer.body["usage"]["prompt_tokens"] - text.body["usage"]["prompt_tokens"]
    assert 1 <= more <= PATCHES // 4


REFUSED = {
    "remote": ([{"type": "image_url", "image_url": {"url": "https://x.y/a.png"}}], "is fetched"),
    "no_image": (
        [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}],
        "image 1: expected a whole PNG or JPEG file",
    ),
    "pixels": ([_part(_pixels(0, (101, 100)))], "image 1: expected at most 10000 pixels"),
    "second": ([_part(_pixels(0)), _part(_pixels(0, (2, 900)))], "image 2: expected sides"),
    "many": ([_part(_pixels(0))] * 3, "must have at most 2 images, got 3"),
    "form": ([{"type": "image_url", "image_url": "data:"}], "must be an object with a url"),
    "detail": ([_part(_pixels(0), detail="best")], "detail must be one of auto, low, high"),
    "more": ([_part(_pixels(0)) | {"x": 1}], "unknown field"),
    "kind": ([{"type": "video_url"}], "must be a part of type text, input_audio or image_url"),
    "mark": ([_part(_pixels(0)), images.MARK], "1 times, got 2"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_images_that_cannot_be_used_are_refused(name, served):
    content, message = REFUSED[name]
    answer = served.fetch("/v1/chat/completions", _body(*content))
    assert answer.status == 400
    assert message in answer.body["error"]["message"]
    assert served.worker.num_open == 0


def test_only_users_send_images(served):
    body = _body(_part(_pixels(0)))
    body["messages"].insert(0, {"role": "system", "content": [_part(_pixels(0))]})
    answer = served.fetch("/v1/chat/completions", body)
    assert answer.status == 400
    assert "must be a part of type text" in answer.body["error"]["message"]


def test_a_foreign_template_writes_the_token_that_the_models_files_name(tmp_path):
    extra = {hf_image_config.EXTRA: {"image_token_id": ord("~")}}
    reader = _load(tmp_path / "foreign", FOREIGN, extra)
    said = [{"role": "user", "content": f"a{images.MARK}b"}]
    encoded = media_prompts.encode(reader, said, [range(3)])
    before = [*b"user:a"]
    assert encoded.ids == [*before, *[inserted.PLACEHOLDER] * 3, *b"b;"]
    np.testing.assert_array_equal(encoded.slots, [-1] * len(before) + [0, 1, 2, -1, -1])
    said = [{"role": "user", "content": f"~{images.MARK}"}]
    with pytest.raises(ChatError, match="for each of 1 images, got 2"):
        media_prompts.encode(reader, said, [range(3)])
    with pytest.raises(ChatError, match="name no token that stands for images"):
        media_prompts.encode(reader._replace(image_id=None), said, [range(3)])
