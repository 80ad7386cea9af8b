"""Log-likelihoods of text equal those of the full forward pass; bits per byte by source."""

import json
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kanana_jax import generate, model
from kanana_jax.evaluate import bits_per_byte, scoring
from kanana_jax.model import presets
from kanana_jax.weights import hf, native

TRAINED = Path(__file__).parents[1] / "generate" / "trained"


@pytest.fixture(scope="module")
def loaded():
    return generate.load(TRAINED, "float32")


@pytest.fixture(scope="module")
def log_p(tmp_path_factory):
    """log_p(ids)[i] is the log-probability of every token after ids[: i + 1]."""
    folder = tmp_path_factory.mktemp("trained") / "native"
    hf.import_directory(TRAINED, folder)
    cfg = native.read_description(folder).cfg
    weights = native.restore(folder, native.abstract(cfg, jnp.float32))

    @jax.jit
    def apply(tokens):
        out, _ = model.apply(cfg, weights, model.Inputs.of_tokens(tokens), presets.LAPTOP)
        return jax.nn.log_softmax(out[0])

    def of(ids):
        tokens = np.zeros((1, 64), np.int32)
        tokens[0, : len(ids)] = ids
        return np.asarray(apply(tokens), np.float64)[: len(ids)]

    return of


def _want(log_p, pair):
    ids = [*pair.context, *pair.continuation]
    table = log_p(ids)
    places = range(len(pair.context) - 1, len(ids) - 1)
    return (
        sum(table[i, ids[i + 1]] for i in places),
        all(table[i].argmax() == ids[i + 1] for i in places),
    )


@pytest.mark.slow
def test_scores_are_those_of_the_full_forward(loaded, log_p):
    texts = [(b"The ", b"model"), (b"x", b"y" * 50), (b"python -m kanana_j", b"ax")]
    pairs = [scoring.Pair([256, *a], list(b)) for a, b in texts]
    pairs.append(scoring.Pair([256, *b"Muon's "], list(b"could")))  # what greedy decoding writes
    scorer = scoring.Scorer(loaded, num_rows=3, length=60, chunk=40)
    scores = dict(scorer.score(pairs))
    assert sorted(scores) == [0, 1, 2, 3]
    for place, pair in enumerate(pairs):
        loglikelihood, is_greedy = _want(log_p, pair)
        np.testing.assert_allclose(scores[place].loglikelihood, loglikelihood, 1e-5, 2e-5)
        assert scores[place].is_greedy == is_greedy
    assert [scores[place].is_greedy for place in (1, 3)] == [False, True]


@pytest.mark.long
def test_a_context_that_is_too_long_loses_its_beginning(loaded):
    scorer = scoring.Scorer(loaded, num_rows=1, length=8)
    long = scoring.Pair(list(b"abcdefghijklmnop"), list(b"xyz"))
    kept = scoring.Pair(list(b"klmnop"), list(b"xyz"))
    (_, one), (_, other) = *scorer.score([long]), *scorer.score([kept])
    assert one == other


@pytest.mark.parametrize("pair", [([], [1]), ([1], []), ([1], [2] * 9)])
def test_what_cannot_be_scored_is_refused(loaded, pair):
    scorer = scoring.Scorer(loaded, num_rows=1, length=8)
    with pytest.raises(generate.RequestError, match="1 to 8 tokens"):
        list(scorer.score([scoring.Pair(*pair)]))


def test_windows_score_every_token_once_with_as_much_context_as_fits():
    ids = list(range(10, 23))
    pairs = scoring.windows(ids, 1, 5)
    assert [token for pair in pairs for token in pair.continuation] == ids
    assert pairs[0].context == [1]
    whole = [1, *ids]
    for pair in pairs:
        inputs = [*pair.context, *pair.continuation][:-1]
        assert len(inputs) == 5
        at = whole.index(pair.continuation[0])
        assert whole[at - len(pair.context) : at] == pair.context
    assert scoring.windows([], 1, 5) == []


@pytest.mark.long
def test_bits_per_byte_of_each_source(loaded, log_p, tmp_path, capsys):
    (tmp_path / "a.txt").write_text("The model")
    lines = [{"text": "\uac00 b"}, {"text": "Muon"}]
    (tmp_path / "b.jsonl").write_text("\n".join(map(json.dumps, lines)))
    bits_per_byte.main(
        [
            f"--checkpoint={TRAINED}",
            f"--path={tmp_path / 'a.txt'}",
            f"--path={tmp_path / 'b.jsonl'}",
            "--dtype=float32",
            "--length=64",
            "--batch-size=2",
        ]
    )
    shown = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    bits = []
    for text in ("The model", "\uac00 b", "Muon"):
        pair = scoring.Pair([256], list(text.encode()))
        bits.append(-_want(log_p, pair)[0] / math.log(2))
    want = [bits[0] / 9, (bits[1] + bits[2]) / 9, sum(bits) / 18]
    np.testing.assert_allclose([line["bits_per_byte"] for line in shown], want, rtol=1e-5)
    assert [line["documents"] for line in shown] == [1, 2, 3]
    assert [line["bytes"] for line in shown] == [9, 9, 18]
    assert [Path(line["source"]).name for line in shown] == ["a.txt", "b.jsonl", "all"]


def test_a_source_without_a_byte_has_no_bits_per_byte(capsys):
    bits_per_byte._show("a", bits_per_byte.Total(num_documents=1))
    assert json.loads(capsys.readouterr().out)["bits_per_byte"] is None  # JSON has no NaN


def test_text_that_is_not_there_is_one_line(capsys):
    with pytest.raises(SystemExit) as stopped:
        bits_per_byte.main([f"--checkpoint={TRAINED}", "--path=/no/such.txt"])
    assert stopped.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1
