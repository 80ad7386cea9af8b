"""Stages of a run read on in every source where the stage before them stopped."""

import dataclasses
import itertools

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from small_corpora import SMALL, documents

from kanana_jax import data
from kanana_jax.data import mixture
from kanana_jax.data.stages import Schedule, Stage

LONGEST = 16


@st.composite
def schedules(draw):
    """Random stages over random sources, and the tokens of an epoch of each source."""
    num_sources = draw(st.integers(1, 3))
    epoch_tokens = [LONGEST * draw(st.integers(1, 40)) for _ in range(num_sources)]
    weight = st.sampled_from([0.0, 0.1, 1.0, 2.5])
    stages = []
    for _ in range(draw(st.integers(1, 4))):
        weights = draw(st.lists(weight, min_size=num_sources, max_size=num_sources))
        hypothesis.assume(any(weights))
        cfg = dataclasses.replace(
            SMALL,
            batch_size=draw(st.integers(1, 6)),
            seq_len=draw(st.sampled_from([2, 4, 8, 16])),
            paths=("x",) * num_sources,
            weights=tuple(weights) if draw(st.booleans()) else (),
        )
        stages.append(Stage(draw(st.integers(1, 12)), cfg))
    return Schedule(stages, epoch_tokens), epoch_tokens


def _batches(schedule):
    """(stage, places) of every batch."""
    for number in range(sum(stage.num_batches for stage in schedule.stages)):
        stage = schedule.of_batch(number)
        yield stage, [schedule.place(number, row) for row in range(stage.cfg.batch_size)]


@hypothesis.given(schedules())
@hypothesis.settings(deadline=None, max_examples=150)
def test_no_token_of_a_stream_is_read_twice_and_none_before_its_turn(made):
    schedule, epoch_tokens = made
    read = [0] * len(epoch_tokens)  # how far each stream is read
    for stage, places in _batches(schedule):
        for source, begin in places:
            # Longer sequences begin at a multiple of their length; nothing else is left out.
            assert read[source] <= begin < read[source] + stage.cfg.seq_len
            assert begin % stage.cfg.seq_len == 0
            # A window lies in one block of the longest sequence, so in one epoch.
            assert begin // LONGEST == (begin + stage.cfg.seq_len - 1) // LONGEST
            read[source] = begin + stage.cfg.seq_len
    expected = [end / tokens for end, tokens in zip(read, epoch_tokens, strict=True)]
    slack = LONGEST / np.array(epoch_tokens)
    assert (np.abs(np.array(schedule.epochs()) - expected) <= slack).all()


@hypothesis.given(schedules())
@hypothesis.settings(deadline=None, max_examples=150)
def test_every_stage_keeps_to_its_mixture_within_a_batch(made):
    schedule, epoch_tokens = made
    for stage, of_stage in itertools.groupby(_batches(schedule), key=lambda one: one[0]):
        drawn = np.array([place.source for _, places in of_stage for place in places])
        counts = np.bincount(drawn, minlength=len(epoch_tokens))
        weights = np.array(stage.cfg.weights or epoch_tokens)
        shares = weights / weights.sum() * len(drawn)
        assert np.abs(counts - shares).max() < max(stage.cfg.batch_size, len(weights))
        assert not counts[weights == 0].any()


def test_far_counts_are_those_of_all_draws_before():
    weights = (0.0, 3.0, 1.0, 0.5)
    counts = np.zeros(4, int)
    for number in range(300):
        assert mixture.counts_of(weights, number) == counts.tolist()
        counts[mixture.draw(weights, number)[0]] += 1
    assert counts[0] == 0


@pytest.fixture
def staged(open_text):
    corpus, cfg = open_text(documents(100), documents(200, 1000), seq_len=16)

    def stage(num_batches, **changes):
        return Stage(num_batches, dataclasses.replace(cfg, **changes))

    stages = [
        stage(7, weights=(1.0, 0.0), seq_len=8),
        stage(5, weights=(0.5, 0.5), batch_size=6),
        stage(9, weights=(0.1, 0.9), batch_size=2, seq_len=4),
    ]
    return corpus, cfg, stages


def test_batches_have_the_shape_of_their_stage_and_the_last_goes_on(staged):
    corpus, cfg, stages = staged
    shapes = [data.train_batch(corpus, cfg, n, stages=stages).tokens.shape for n in range(30)]
    assert shapes == [(4, 8)] * 7 + [(6, 16)] * 5 + [(2, 4)] * 18


def test_resume_at_every_step_equals_the_unbroken_stream_across_switches(staged):
    corpus, cfg, stages = staged
    unbroken = list(itertools.islice(data.train_batches(corpus, cfg, stages=stages), 25))
    for start in range(25):
        stream = data.train_batches(corpus, cfg, start_step=start, stages=stages)
        for got, want in zip(itertools.islice(stream, 2), unbroken[start:], strict=False):
            for a, b in zip(got, want, strict=True):
                np.testing.assert_array_equal(a, b)


def test_stages_of_one_kind_read_what_a_run_without_stages_reads(open_text):
    corpus, cfg = open_text(documents(100))
    stages = [Stage(3, cfg), Stage(4, cfg), Stage(9, cfg)]
    for number in range(16):
        whole = data.train_batch(corpus, cfg, number)
        parts = data.train_batch(corpus, cfg, number, stages=stages)
        np.testing.assert_array_equal(parts.tokens, whole.tokens)


def test_documents_come_at_most_once_an_epoch_across_switches(open_text):
    """Counted in the batches: every document repeats a letter of its own 21 times."""
    letters = [chr(0x4E00 + i) for i in range(160)]
    corpus, cfg = open_text([letter * 21 for letter in letters], seq_len=16)
    stages = [
        Stage(6, dataclasses.replace(cfg, seq_len=4, batch_size=5)),
        Stage(9, cfg),
        Stage(4, dataclasses.replace(cfg, seq_len=8, batch_size=9)),
    ]
    (epochs,) = data.num_epochs(corpus, cfg, stages)
    assert epochs < 1
    seen = np.concatenate(
        [data.train_batch(corpus, cfg, n, stages=stages).tokens.ravel() for n in range(19)]
    )
    text = bytes(seen[seen < 256].astype(np.uint8)).decode("utf-8", errors="ignore")
    assert max(text.count(letter) for letter in letters) <= 21
