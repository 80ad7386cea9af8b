"""The share of pairs in which a model prefers the chosen answer."""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from kanana_jax import generate
from kanana_jax.data import tokenizer
from kanana_jax.evaluate import preferences, scoring

TRAINED = Path(__file__).parents[1] / "generate" / "trained"
PAIRS = [
    {"prompt": "Hi.", "chosen": "Hello.", "rejected": "Go away, now."},
    {"prompt": "One?", "chosen": "\uc608, \ud558\ub098.", "rejected": "No"},
    {"prompt": "Two?", "chosen": "the model", "rejected": "zqxj"},
]


class Fixed(NamedTuple):
    """A scorer that gives each answer the log-likelihood that its first token names."""

    def score(self, pairs):
        for place in reversed(range(len(pairs))):
            yield place, scoring.Score(-float(pairs[place].continuation[0]), False)


def answers(*numbers):
    """Answers of (minus log-likelihood, length)."""
    return [scoring.Pair([0], [first] * length) for first, length in numbers]


def test_accuracy_its_error_and_ties():
    found = preferences.accuracy(
        Fixed(), answers((1, 1), (2, 1), (3, 1), (2, 1), (5, 1), (5, 1), (1, 1), (9, 1)), "sum"
    )
    assert found.num_pairs == 4 and found.accuracy == 0.625  # 1, 0, a tie, 1
    assert found.margin == (1 - 1 + 0 + 8) / 4
    np.testing.assert_allclose(found.stderr, np.std([1, 0, 0.5, 1], ddof=1) / 2)


def test_means_do_not_favour_the_shorter_answer():
    pair = answers((6, 6), (2, 1))  # -1 per token against -2
    assert preferences.accuracy(Fixed(), pair, "sum").accuracy == 0.0
    assert preferences.accuracy(Fixed(), pair, "mean").accuracy == 1.0


@pytest.mark.parametrize("count", [0, 3])
def test_answers_without_a_partner_are_refused(count):
    with pytest.raises(ValueError, match=f"an even number of answers, two at least, got {count}"):
        preferences.accuracy(Fixed(), answers((1, 1), (1, 1), (1, 1))[:count], "sum")


@pytest.fixture
def data(tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(pair) + "\n" for pair in PAIRS))
    return str(path)


def test_an_answer_is_what_training_counts_behind_its_prompt(data):
    used = tokenizer.byte_tokenizer()
    found = preferences.read(data, "bytes", 64)
    assert len(found) == 6
    texts = [bytes(token for token in pair.continuation if token < 256) for pair in found]
    assert sorted(texts) == sorted(
        pair[side].encode() for pair in PAIRS for side in ("chosen", "rejected")
    )
    for chosen, rejected in zip(found[::2], found[1::2], strict=True):
        assert chosen.context == rejected.context and chosen.context[0] == used.bos_id
        assert chosen.continuation[-1] == rejected.continuation[-1] == used.eos_id
        (pair,) = [pair for pair in PAIRS if pair["prompt"].encode() in bytes(chosen.context[1:])]
        assert pair["chosen"].encode() == bytes(chosen.continuation[:-1])


@pytest.mark.slow
def test_the_command_says_what_the_scores_say(data, capsys):
    preferences.main(
        [f"--checkpoint={TRAINED}", f"--data={data}", "--dtype=float32", "--length=64"]
    )
    said = json.loads(capsys.readouterr().out)
    scorer = scoring.Scorer(generate.load(TRAINED, "float32"), num_rows=2, length=64)
    wanted = []
    for pair in PAIRS:
        prompt = [256, *f"user: {pair['prompt']}\nassistant: ".encode()]
        two = [scoring.Pair(prompt, [*pair[side].encode(), 257]) for side in ("chosen", "rejected")]
        scores = dict(scorer.score(two))
        chosen, rejected = (
            scores[place].loglikelihood / len(two[place].continuation) for place in (0, 1)
        )
        wanted.append(chosen - rejected)
    assert said["pairs"] == 3 and said["by"] == "mean"
    np.testing.assert_allclose(said["margin"], np.mean(wanted), atol=1e-4)
    np.testing.assert_allclose(said["accuracy"], np.mean(np.array(wanted) > 0), atol=1e-6)
