"""The stream engine on a small random model: who speaks when changes nothing in what is said."""

import dataclasses

import jax
import numpy as np
import pytest
import small_decoder

from kanana_jax.generate import Sampling
from kanana_jax.generate.requests import RequestError
from kanana_jax.generate.streams import scheduling
from kanana_jax.generate.streams.engine import Shape, StreamEngine, Utterance
from kanana_jax.model import presets
from kanana_jax.speech import codec, mel
from kanana_jax.speech.codec import CodecConfig
from kanana_jax.speech.folder import Speaker
from kanana_jax.speech.vocabulary import Vocabulary

pytestmark = pytest.mark.slow

CFG = dataclasses.replace(small_decoder.SHALLOW, vocab_size=258 + 16)
OF_CODEC = CodecConfig(num_codes=16, width=8)
VOCABULARY = Vocabulary(first=258, num_codes=16, end=257)


class OneWidth(Shape):
    """Turns of one width, so that sums have the same bits whoever draws."""

    @property
    def widths(self):
        return [self.width]


SHAPE = OneWidth(num_rows=3, width=2, length=32, chunk=8, prompts_at_once=2, tokens_per_turn=2)
# Prompts of several lengths, one of them in two chunks.
ASKED = [
    Utterance(prompt=[5, 6, 7], max_tokens=9, sampling=Sampling(seed=1)),
    Utterance(prompt=list(range(40, 51)), max_tokens=7, sampling=Sampling(seed=2)),
    Utterance(prompt=[9, 8, 7, 6], max_tokens=12, sampling=Sampling(seed=3)),
    Utterance(prompt=[70, 71], max_tokens=5, sampling=Sampling(seed=4)),
]


class Clock:
    """Each look at it takes a hundredth of a second."""

    now_s = 0.0

    def __call__(self):
        self.now_s += 0.01
        return self.now_s


@pytest.fixture(scope="module")
def make():
    """An engine by the name of its policy."""
    weights = small_decoder.prepared(CFG)
    speaker = Speaker(OF_CODEC, codec.init(OF_CODEC, jax.random.key(0)), ("en-m1",))

    def one(policy="slack"):
        return StreamEngine(
            CFG,
            presets.LAPTOP,
            weights,
            speaker,
            VOCABULARY,
            shape=SHAPE,
            policy=scheduling.POLICIES[policy],
            clock=Clock(),
        )

    return one


def spoken(engine, asked, most_turns=60):
    """(sound, number of tokens, reason) of each, and the turn in which each was heard first."""
    numbers = [engine.submit(one) for one in asked]
    found = {number: [b"", 0, None] for number in numbers}
    first = {}
    for turn in range(most_turns):
        if engine.is_idle:
            break
        for sound in engine.step():
            of = found[sound.request]
            assert of[2] is None  # nothing comes after the end
            of[0] += sound.pcm
            of[1] += sound.num_tokens
            of[2] = sound.finish_reason
            first.setdefault(sound.request, turn)
    assert engine.is_idle and engine.num_running == 0
    return [tuple(found[number]) for number in numbers], [first[number] for number in numbers]


@pytest.fixture(scope="module")
def alone(make):
    """Each utterance by an engine that has said nothing before."""
    return [spoken(make(), [one])[0][0] for one in ASKED]


@pytest.mark.long
def test_an_utterance_ends_in_order_and_sounds_for_its_tokens(alone):
    for asked, (pcm, num_tokens, reason) in zip(ASKED, alone, strict=True):
        assert len(pcm) == 2 * mel.SAMPLES_PER_TOKEN * num_tokens
        assert reason == ("length" if num_tokens == asked.max_tokens else "stop")
        assert num_tokens == 0 or np.abs(np.frombuffer(pcm, "<i2")).max() > 100
    assert {reason for *_, reason in alone} == {"length", "stop"}


@pytest.mark.long
@pytest.mark.parametrize("policy", sorted(scheduling.POLICIES))
def test_what_is_said_does_not_depend_on_who_speaks_beside(make, alone, policy):
    """Four utterances in three rows, so one takes a row that has sounded."""
    together, _ = spoken(make(policy), ASKED)
    assert together == alone


def test_by_slack_the_third_is_heard_before_the_first_has_ended(make):
    """As soon as those before it are a quarter of a second ahead: 4 turns of 2 tokens."""
    asked = [dataclasses.replace(ASKED[2], max_tokens=20)] * 3
    found = {policy: spoken(make(policy), asked) for policy in scheduling.POLICIES}
    (said, first), (said_by_slack, first_by_slack) = found["first_come"], found["slack"]
    assert said == said_by_slack
    assert first_by_slack[2] == 4 < first[2] == -(-said[0][1] // SHAPE.tokens_per_turn)


def test_a_cancelled_utterance_leaves_its_row_to_others(make, alone):
    engine = make()
    dropped = [engine.submit(dataclasses.replace(ASKED[2], max_tokens=20)) for _ in range(3)]
    for _ in range(2):
        engine.step()
    assert engine.num_running > 0
    for number in dropped:
        engine.cancel(number)
    assert engine.is_idle and engine.num_running == 0
    (said,), _ = spoken(engine, ASKED[:1])
    assert said == alone[0]


def test_what_never_fits_is_refused(make):
    engine = make()
    for prompt, most in (([1, 2], 31), ([1], 4), (list(range(32)), 1), ([1, 2], 0)):
        with pytest.raises(RequestError, match="must fit in 32 tokens"):
            engine.submit(Utterance(prompt=prompt, max_tokens=most))
    assert engine.is_idle


def test_narrow_turns_are_compiled_for_few_listeners():
    assert Shape(num_rows=64, width=16).widths == [1, 4, 16]
    assert Shape(num_rows=64, width=6).widths == [1, 4, 6]


def test_a_turn_is_no_wider_than_there_are_rows():
    with pytest.raises(ValueError, match="width must be at most num_rows = 1, got 2"):
        Shape(num_rows=1, width=2)
