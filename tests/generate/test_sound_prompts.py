"""Prompts with sounds: the sampler reads what the trainer reads, and so does the server."""

import base64
import dataclasses
import io

import jax
import numpy as np
import pytest
import small_decoder
import small_engine
from served import Served, write_model

from kanana_jax import config, convert, generate, model
from kanana_jax.batch import Batch
from kanana_jax.data import chat, inserted
from kanana_jax.generate import Request, Room, Sampling, answers, serve, sound_prompts
from kanana_jax.generate.requests import RequestError
from kanana_jax.model import presets
from kanana_jax.speech import chats, mel
from kanana_jax.train import forward

pytestmark = pytest.mark.slow

SHAPE = config.AudioConfig(hidden_size=8, num_layers=1, num_heads=2, intermediate_size=12)
CFG = dataclasses.replace(small_decoder.READER, vision=None, audio=SHAPE)
ROOM = Room(sounds=2, sound_frames=30)
LENGTH = 64


def _frames(seed, count):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((count, SHAPE.num_bands)).astype(np.float16)


def _request(number, counts, num_new=6):
    rng = np.random.default_rng(number)
    text = rng.integers(0, CFG.vocab_size, 6).tolist()
    ids, slots = text[:], [-1] * 6
    for span in chats.spans(SHAPE, counts, ROOM.sound_frames):
        ids += [inserted.PLACEHOLDER] * len(span) + text[:2]
        slots += [*span, -1, -1]
    heard = [_frames(number + n, count) for n, count in enumerate(counts)]
    row = chats.row_of(SHAPE, heard, len(heard), ROOM.sound_frames, np.array(slots, np.int32))
    return Request(prompt=ids, max_tokens=num_new, sampling=Sampling(seed=3), features=row)


@pytest.fixture(scope="module")
def stacks():
    return small_decoder.random_weights(CFG)


@pytest.mark.long
def test_the_trainer_finds_what_was_drawn_as_likely_as_the_sampler(stacks):
    requests = [_request(0, (30,)), _request(1, (7,)), _request(2, (25, 11))]
    requests.append(dataclasses.replace(requests[0], features=_request(7, (30,)).features))
    requests.append(dataclasses.replace(requests[0], features=None))
    engine = small_engine.make(
        CFG, stacks, room=ROOM, with_routes=False, num_rows=5, prompts_at_once=2
    )
    found = answers(engine, requests)
    logp = jax.jit(
        lambda batch: forward.log_probabilities(stacks, batch, cfg=CFG, execution=presets.LAPTOP)
    )
    for request, answer in zip(requests, found, strict=True):
        ids = np.array([[*request.prompt, *answer.ids]], np.int32)
        got = np.asarray(logp(_padded(Batch.of_tokens(ids), request.features)))[0]
        got = got[len(request.prompt) - 1 :][: len(answer.ids)]
        np.testing.assert_allclose(got, answer.logps, atol=1e-4)
    assert len({answer.logps[0] for answer in (found[0], found[3], found[4])}) == 3


def _padded(batch, of_row):
    length = 24
    filled = batch.map(lambda x: np.pad(x, ((0, 0), (0, length - x.shape[1]))))
    if of_row is None:
        of_row = chats.row_of(SHAPE, [], 0, ROOM.sound_frames, np.full(0, -1, np.int32))
    more = ROOM.sounds - len(of_row.frames)
    return filled._replace(
        features=model.Sounds(
            np.pad(of_row.frames, ((0, more), (0, 0), (0, 0)))[None],
            np.pad(of_row.num_frames, (0, more))[None],
            np.pad(of_row.slots, (0, length - len(of_row.slots)), constant_values=-1)[None],
        )
    )


def test_sounds_that_do_not_fit_are_refused_before_anything_runs(stacks):
    engine = small_engine.make(CFG, stacks, room=ROOM, with_routes=False)
    with pytest.raises(RequestError, match="at most 2 with room for 30 frames each, got 3"):
        engine.check(_request(0, (30, 30, 30), num_new=1))
    long = _request(0, (30,))
    other = long.features._replace(frames=np.pad(long.features.frames, ((0, 0), (0, 10), (0, 0))))
    with pytest.raises(RequestError, match="got 1 with room for 40"):
        engine.check(dataclasses.replace(long, features=other))
    with pytest.raises(RequestError, match="each of the 2 positions"):
        engine.check(dataclasses.replace(long, prompt=[1, 2]))


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "hearer"
    write_model(folder, chat.PLAIN.template, CFG)
    return generate.load(folder)


LIMITS = serve.SoundLimits(max_sounds=2, seconds=1)


@pytest.fixture(scope="module")
def served(loaded):
    engine = loaded.engine(num_rows=2, length=LENGTH, chunk=16, room=LIMITS.room(SHAPE))
    with Served(loaded, engine=engine, num_rows=2, length=LENGTH, sounds=LIMITS) as server:
        yield server


def _sound(seconds):
    soundfile = pytest.importorskip("soundfile")
    samples = 0.3 * np.sin(np.arange(int(seconds * mel.SAMPLE_RATE)) / 9)
    file = io.BytesIO()
    soundfile.write(file, samples, mel.SAMPLE_RATE, format="WAV", subtype="FLOAT")
    data = base64.b64encode(file.getvalue()).decode()
    part = {"type": "input_audio", "input_audio": {"data": data, "format": "wav"}}
    return samples.astype(np.float32), part


def _body(*content):
    parts = [{"type": "text", "text": one} if isinstance(one, str) else one for one in content]
    messages = [{"role": "user", "content": parts}]
    return {"messages": messages, "max_tokens": 4, "seed": 3, "logprobs": True}


@pytest.mark.long
def test_the_server_answers_as_the_engine_does_on_the_same_sounds(served, loaded):
    (first, part), (second, other) = _sound(0.5), _sound(0.9)
    answer = served.fetch("/v1/chat/completions", _body("a", part, "b", other))
    assert answer.status == 200, answer.body
    got = [one["logprob"] for one in answer.body["choices"][0]["logprobs"]["content"]]
    said = [{"role": "user", "content": f"a{chats.MARK}b{chats.MARK}"}]
    heard = [mel.log_mel(x).astype(np.float16) for x in (first, second)]
    room = LIMITS.room(SHAPE)
    prompt = sound_prompts.encode(loaded, said, heard, room)
    engine = loaded.engine(num_rows=2, length=LENGTH, chunk=16, room=room)
    request = Request(
        prompt=prompt.ids, max_tokens=4, sampling=Sampling(seed=3), features=prompt.sounds
    )
    (want,) = answers(engine, [request])
    np.testing.assert_allclose(got, want.logps[: len(got)], atol=1e-5)
    shorter = served.fetch("/v1/chat/completions", _body("a", part, "b", part))
    assert shorter.body["choices"][0]["logprobs"] != answer.body["choices"][0]["logprobs"]


REFUSED = {
    "many": (lambda: _body(*[_sound(0.3)[1]] * 3), "at most 2 sounds, got more"),
    "long": (lambda: _body(_sound(1.2)[1]), "at most 1 s of sound, got 1.2 s"),
    "mark": (lambda: _body(_sound(0.3)[1], chats.MARK), "1 times, got 2"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_sounds_that_cannot_be_used_are_refused(name, served):
    make, message = REFUSED[name]
    answer = served.fetch("/v1/chat/completions", make())
    assert answer.status == 400
    assert message in answer.body["error"]["message"]


def test_a_sound_has_no_tokens(served):
    body = {"messages": _body(_sound(0.3)[1])["messages"]}
    answer = served.fetch("/tokenize", body)
    assert answer.status == 400 and "must have no sound here" in answer.body["error"]["message"]


def test_no_published_layout_has_such_an_encoder(loaded, tmp_path, capsys):
    with pytest.raises(SystemExit) as caught:
        convert.main(
            [
                f"--from={loaded.directory}",
                f"--to-hf={tmp_path / 'hf'}",
                "--max-position-embeddings=64",
            ]
        )
    assert caught.value.code == 2
    assert "no published layout has such an encoder" in capsys.readouterr().err
