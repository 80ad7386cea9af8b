"""The share of pairs in which a model prefers the chosen answer."""

import dataclasses
import json
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import pytest

from kanana_jax import generate, model
from kanana_jax.data import tokenizer
from kanana_jax.evaluate import preferences, scoring
from kanana_jax.model import presets
from kanana_jax.weights import native

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
    score_N = -np.array([1.0, 2.0, 3.0, 2.0, 5.0, 5.0, 1.0, 9.0])
    found = preferences.accuracy(score_N)
    assert found.num_pairs == 4 and found.accuracy == 0.625  # 1, 0, a tie, 1
    assert found.margin == (1 - 1 + 0 + 8) / 4
    np.testing.assert_allclose(found.stderr, np.std([1, 0, 0.5, 1], ddof=1) / 2)


def test_means_do_not_favour_the_shorter_answer():
    pair = answers((6, 6), (2, 1))  # -1 per token against -2
    assert preferences.likelihoods(Fixed(), pair, "sum").tolist() == [-6.0, -2.0]
    assert preferences.likelihoods(Fixed(), pair, "mean").tolist() == [-1.0, -2.0]


@pytest.mark.parametrize("count", [0, 3])
def test_answers_without_a_partner_are_refused(count):
    with pytest.raises(ValueError, match=f"an even number of answers, two at least, got {count}"):
        preferences.accuracy(np.zeros(count))


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


@pytest.mark.long
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


@pytest.fixture(scope="module")
def judge(tmp_path_factory):
    """A folder of a model of bytes with a scalar head, and its weights."""
    cfg = dataclasses.replace(presets.tiny(258), num_layers=1, num_dense_layers=1, scalar_head=True)
    weights = model.init(cfg, jax.random.key(0))
    head = jax.random.normal(jax.random.key(1), (cfg.hidden_size,))
    weights = weights._replace(params={**weights.params, "scalar_head": head})
    folder = tmp_path_factory.mktemp("judge") / "model"
    tree = jax.tree.map(native.streamed, native.stored(weights))
    with native.new_directory(folder) as temporary:
        native.write(temporary, native.Description(cfg, {}, "float32"), tree)
    return folder, cfg, weights


@pytest.mark.long
def test_a_folder_with_a_scalar_head_is_measured_by_the_reward_of_the_last_token(
    judge, data, capsys
):
    folder, cfg, weights = judge
    preferences.main([f"--checkpoint={folder}", f"--data={data}", "--length=64"])
    said = json.loads(capsys.readouterr().out)

    texts = [
        [256, *f"user: {pair['prompt']}\nassistant: {pair[side]}".encode()]
        for side in ("chosen", "rejected")
        for pair in PAIRS
    ]
    tokens_BS = np.zeros((6, 64), np.int32)
    for row, ids in enumerate(texts):
        tokens_BS[row, : len(ids)] = ids
    hidden = jax.jit(lambda inputs: model.hidden_states(cfg, weights, inputs, presets.LAPTOP)[0])
    scalar_BS = hidden(model.Inputs.of_tokens(tokens_BS)) @ weights.params["scalar_head"]
    last_B = [float(scalar_BS[row, len(ids) - 1]) for row, ids in enumerate(texts)]
    margins = np.array(last_B[:3]) - np.array(last_B[3:])
    assert said["pairs"] == 3 and said["by"] == "reward"
    np.testing.assert_allclose(said["margin"], margins.mean(), atol=1e-4)
    np.testing.assert_allclose(said["accuracy"], (margins > 0).mean(), atol=1e-6)


@pytest.mark.parametrize(
    ("wanted", "flags"),
    [
        ("expected a model with a scalar head", [f"--checkpoint={TRAINED}"]),
        ("rewards are computed on one device, got 2", ["--tensor-parallel=2"]),
    ],
)
def test_rewards_that_cannot_be_had_are_refused(judge, data, capsys, wanted, flags):
    with pytest.raises(SystemExit, match="2"):
        preferences.main([f"--checkpoint={judge[0]}", f"--data={data}", "--by=reward", *flags])
    assert wanted in capsys.readouterr().err
