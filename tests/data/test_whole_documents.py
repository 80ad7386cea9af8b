"""First fit, and mixing by ratio, against the definitions."""

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from kanana_jax.data import mixture, whole_documents


@hypothesis.given(st.lists(st.integers(1, 20), max_size=60), st.integers(20, 30))
def test_each_length_goes_to_the_first_row_with_room(lengths, capacity):
    room = []
    wanted = []
    for length in lengths:
        row = next((row for row, left in enumerate(room) if left >= length), len(room))
        room += [capacity] * (row == len(room))
        room[row] -= length
        wanted.append(row)
    got = whole_documents.first_fit(np.array(lengths, np.int64), capacity)
    np.testing.assert_array_equal(got, np.array(wanted, np.int64))


@hypothesis.given(st.lists(st.integers(1, 20), min_size=1, max_size=60))
def test_packed_rows_hold_every_example_once_in_the_order_given(lengths):
    lengths = np.array(lengths, np.int64)
    order = np.arange(len(lengths))[::-1]
    rows = whole_documents.pack(order, lengths, 20)
    assert sorted(np.concatenate(rows).tolist()) == sorted(order.tolist())
    for row in rows:
        assert 0 < lengths[row].sum() <= 20
        assert (np.diff(row) < 0).all()


@hypothesis.given(st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=5))
def test_draws_count_up_in_each_source_and_keep_to_the_ratio(weights):
    counts = [0] * len(weights)
    for number in range(200):
        source, place = mixture.draw(weights, number)
        assert place == counts[source]
        counts[source] += 1
        shares = np.array(weights) / sum(weights) * (number + 1)
        assert np.abs(shares - counts).max() < len(weights)


@pytest.mark.parametrize("number", [10**6, 10**9 + 7, 10**12])
def test_a_far_draw_continues_the_ones_before_it(number):
    weights = (0.3, 5.0, 1.7)
    before = {}
    for later in range(60):
        source, place = mixture.draw(weights, number + later)
        assert place == before.get(source, place - 1) + 1
        before[source] = place
        share = weights[source] / 7.0 * (number + later)
        np.testing.assert_allclose(place, share, rtol=1e-15, atol=len(weights))
    assert before.keys() == {0, 1, 2}


def test_kept_examples_have_their_own_tokens_and_no_other():
    examples = whole_documents.Examples(
        tokens_T=np.arange(20, dtype=np.uint16),
        origin_T=(np.arange(20) % 3).astype(np.uint8),
        ends_G=np.array([2, 5, 9, 11, 14, 20]),
        source_N=np.array([0, 0, 1], np.int32),
        is_heldout_N=np.array([True, False, True]),
    )
    assert examples.num_segments == 2
    np.testing.assert_array_equal(examples.lengths_N, [1 + 2, 3 + 1, 2 + 5])
    kept = examples.kept(np.array([True, False, True]))
    np.testing.assert_array_equal(kept.source_N, [0, 1])
    for new, old in ((0, 0), (1, 2)):
        pairs = zip(kept.segments(new), examples.segments(old), strict=True)
        for one, other in pairs:
            np.testing.assert_array_equal(kept.tokens_T[one], examples.tokens_T[other])
            np.testing.assert_array_equal(kept.origin_T[one], examples.origin_T[other])
    assert examples.kept(np.ones(3, bool)) is examples
