"""What experts tell about the source of their tokens, on loads made by hand and a run's."""

import dataclasses
import math

import numpy as np
import pytest
import tiny_jobs

from kanana_jax import config, data
from kanana_jax.jobs import heldout, specialisation

SOURCES = heldout.Sources(names=("ko.txt", "en.txt"), source_S=np.array([0, 1, 0, 1]))


def loads(*by_source, filling=0.0):
    """(1, S, E): sequences of two sources in these proportions, and one that fills up a batch."""
    one, other = (np.asarray(load, float) for load in by_source)
    return np.stack([one, 3 * other, one, other, np.full_like(one, filling)])[None]


def test_sources_that_use_experts_alike_tell_nothing():
    found = specialisation.summarize(loads([6, 2, 4, 0], [3, 1, 2, 0]), SOURCES)
    assert found["heldout_specialisation"] == pytest.approx(0.0, abs=1e-12)
    assert found["heldout_source_divergence"] == pytest.approx(0.0, abs=1e-12)
    np.testing.assert_allclose(found["source_load"], [[2, 2 / 3, 4 / 3, 0]] * 2)


def test_sources_with_experts_of_their_own_tell_everything():
    found = specialisation.summarize(loads([6, 2, 0, 0], [0, 0, 1, 5]), SOURCES)
    assert found["heldout_specialisation"] == pytest.approx(1.0)
    assert found["heldout_source_divergence"] == pytest.approx(math.log(2))


def test_a_source_weighs_the_same_however_much_text_it_has():
    load = loads([6, 2, 1, 3], [1, 2, 2, 1])
    more = load * np.array([1, 1, 50, 1, 1])[:, None]
    one, other = (specialisation.summarize(x, SOURCES) for x in (load, more))
    assert one["heldout_specialisation"] == pytest.approx(other["heldout_specialisation"])


def test_sequences_that_fill_up_the_batch_count_nowhere():
    one, other = loads([6, 2, 1, 3], [1, 2, 2, 1]), loads([6, 2, 1, 3], [1, 2, 2, 1], filling=9)
    found = (specialisation.summarize(x, SOURCES) for x in (one, other))
    first, second = (one["specialisation_layers"] for one in found)
    np.testing.assert_array_equal(first, second)


def test_three_sources_have_the_mutual_information_of_the_printed_formula():
    rng = np.random.default_rng(0)
    load_LSE = rng.integers(1, 50, (2, 3, 5)).astype(float)
    sources = heldout.Sources(names=("a", "b", "c"), source_S=np.arange(3))
    found = specialisation.summarize(load_LSE, sources)
    p_LDE = load_LSE / load_LSE.sum(axis=-1, keepdims=True) / 3  # of source and expert
    product = p_LDE.sum(axis=1, keepdims=True) * p_LDE.sum(axis=2, keepdims=True)
    information_L = (p_LDE * np.log(p_LDE / product)).sum(axis=(1, 2))
    np.testing.assert_allclose(found["specialisation_layers"], information_L / math.log(3))
    assert found["heldout_specialisation"] == pytest.approx(information_L.mean() / math.log(3))

    def pair(one, other):
        middle = (one + other) / 2
        return sum((p * np.log(p / middle)).sum(axis=-1) for p in (one, other)) / 2

    share = p_LDE * 3
    pairs = [pair(share[:, a], share[:, b]) for a, b in ((0, 1), (0, 2), (1, 2))]
    np.testing.assert_allclose(found["source_divergence_layers"], np.mean(pairs, axis=0))
    worst = share[np.argmax(information_L)]
    np.testing.assert_allclose(found["source_load"], worst * 5)


@pytest.mark.long
def test_a_run_on_two_sources_records_it_and_loads_now_and_then(cfg, tmp_path):
    (tmp_path / "digits.txt").write_text("0123456789 " * 6000)
    paths = (*cfg.data.paths, str(tmp_path / "digits.txt"))
    cfg = dataclasses.replace(cfg, data=config.DataConfig(paths=paths, seq_len=32, batch_size=8))
    corpus = data.open_corpus(cfg.data, tmp_path / "cache")
    columns = tiny_jobs.train(cfg, corpus, tmp_path / "run", tiny_jobs.build(cfg))
    assert columns["heldout_specialisation"].steps_N.tolist() == [4, 8, 12]
    assert 0 < columns["heldout_specialisation"].values_N[-1] < 1
    assert columns["specialisation_layers"].steps_N.tolist() == [12]
    assert columns["source_load"].values_N.shape == (1, 2, 4)
    np.testing.assert_allclose(columns["source_load"].values_N.sum(axis=-1), 4.0)

    assert columns["max_vio_layers"].values_N.shape == (12, 1)
    np.testing.assert_array_equal(
        columns["max_vio_layers"].values_N.max(axis=1), columns["max_vio"].values_N
    )
    load = columns["relative_load"]
    assert load.steps_N.tolist() == [6, 12] and load.values_N.shape == (2, 1, 4)
    np.testing.assert_allclose(load.values_N.mean(axis=-1), 1.0, rtol=1e-6)
    np.testing.assert_allclose(
        load.values_N.max(axis=-1) - 1, columns["max_vio_layers"].values_N[[5, 11]], rtol=1e-5
    )


def test_one_source_is_not_measured(cfg, corpus):
    one = heldout.Sources(names=("a.txt",), source_S=np.zeros(4, np.int64))
    assert specialisation.evaluators((), 4, tiny_jobs.build(cfg), one) == ()
