import numpy as np
import pytest

from kanana_jax.data import chat, tokenizer
from kanana_jax.data.chat import Origin
from kanana_jax.jobs import confidence
from kanana_jax.rollouts import confidence as asking
from kanana_jax.rollouts.environments import drawing, families
from kanana_jax.rollouts.episodes import Episode

BYTES = tokenizer.byte_tokenizer()
(TASK,) = drawing.tasks_of(
    [families.of("chain_sum@3")], ["en"], seed=0, count=1, heldout=False
)  # fmt: skip


def _episode(reward=1.0, end="answered"):
    message = {"role": "assistant", "content": "3"}
    made = chat.encode(chat.PLAIN, BYTES, [*TASK.messages, message])
    return Episode(
        task=TASK,
        seed=0,
        ids=tuple(made.ids),
        origins=tuple(map(int, made.origins)),
        logps=(0.0,) * len(made.ids),
        versions=(0,) * len(made.ids),
        messages=(message,),
        end=end,
        reward=reward,
    )


def _trained(one):
    (segment,) = one.segments
    pairs = zip(segment.ids, segment.origins, strict=True)
    return [i for i, origin in pairs if origin == Origin.MODEL]


@pytest.mark.parametrize(("reward", "says"), [(1.0, "yes"), (0.9, "no"), (0.0, "no")])
def test_the_word_that_is_trained_says_whether_the_answer_was_right(reward, says):
    (one,) = asking.examples(
        chat.PLAIN, BYTES, [_episode(reward)], asking.Question(), threshold=1.0, length=200
    )
    assert BYTES.decode(_trained(one)) == says
    assert _trained(one)[-1] == BYTES.eos_id


def test_ids_are_those_of_the_same_conversation_in_training():
    asked = asking.Question()
    (segment,) = asking.example(chat.PLAIN, BYTES, _episode(), asked, says=asked.yes).segments
    messages = [
        *TASK.messages,
        {"role": "assistant", "content": "3"},
        {"role": "user", "content": asked.text},
        {"role": "assistant", "content": asked.yes},
    ]
    assert list(segment.ids) == chat.encode(chat.PLAIN, BYTES, messages).ids


@pytest.mark.parametrize("one", [_episode(reward=None), _episode(end="length")])
def test_what_was_not_answered_or_not_judged_is_not_asked_about(one):
    found = asking.examples(chat.PLAIN, BYTES, [one], asking.Question(), threshold=1.0, length=200)
    assert found == []


def test_a_question_without_room_is_left_out():
    size = len(_episode().ids)
    found = asking.examples(
        chat.PLAIN, BYTES, [_episode()], asking.Question(), threshold=1.0, length=size
    )
    assert found == []


def test_a_temperature_mends_confidence_that_is_too_high():
    rng = np.random.default_rng(0)
    truth = rng.uniform(0.2, 0.9, size=(2, 4000))
    right = rng.random(truth.shape) < truth
    stated = truth**0.25  # far too sure
    sides = [
        confidence.Asked(right[k], dict.fromkeys(confidence.KINDS, stated[k])) for k in range(2)
    ]
    found = confidence.summarize(*sides)
    assert found["heldout_answer_accuracy"] == pytest.approx(right[0].mean())
    assert found["heldout_ece_stated"] > 0.2
    assert found["heldout_ece_stated_tempered"] < found["heldout_ece_stated"] / 2
