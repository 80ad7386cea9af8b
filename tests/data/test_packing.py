"""Windows against a brute-force packing of the concatenated documents."""

import hypothesis
import numpy as np
from hypothesis import strategies as st

from kanana_jax.data import packing, store

TOKEN_BYTES = np.arange(1000, dtype=np.int32) % 5


def packed(lengths, seq_len, make_order=packing.stored, **settings):
    array = store.TokenArray(
        tokens=np.arange(sum(lengths), dtype=np.uint16),
        ends_N=np.cumsum(lengths),
        num_bytes=0,
        path="memory",
    )
    return packing.Packing(
        array=array,
        order=make_order(array, **settings),
        token_bytes_V=TOKEN_BYTES,
        seq_len=seq_len,
    )


def shuffled(array):
    return packing.shuffled(array, "seed")


def concatenation(lengths, order):
    """Per token of the epoch: its id, its document, its place in the document."""
    ends = np.cumsum(lengths)
    return [
        (int(ends[d]) - lengths[d] + place, int(d), place)
        for d in order
        for place in range(lengths[d])
    ]


def brute_force(stream, place, seq_len):
    window = stream[place * seq_len : (place + 1) * seq_len + 1]
    rows = []
    documents = []
    for i in range(len(window) - 1):
        token, document, _ = window[i]
        target, target_document, _ = window[i + 1]
        if not documents or documents[-1][0] != document:
            documents.append((document, i))
        inside = float(document == target_document)
        rows.append(
            (
                token,
                target,
                i - documents[-1][1],
                len(documents),
                inside,
                inside * TOKEN_BYTES[target],
            )
        )
    rows += [(0,) * 6] * (seq_len - len(rows))
    return packing.Batch(*np.array(rows).T)


@hypothesis.given(
    lengths=st.lists(st.integers(1, 12), min_size=1, max_size=20),
    seq_len=st.integers(1, 17),
    epoch=st.integers(0, 3),
)
@hypothesis.settings(deadline=None, max_examples=100)
def test_every_window_equals_brute_force(lengths, seq_len, epoch):
    source = packed(lengths, seq_len, shuffled)
    order = source.order(epoch).documents_N
    assert sorted(order) == list(range(len(lengths)))
    stream = concatenation(lengths, order)
    for place in range(source.num_padded_windows):
        got, want = source.window_of(epoch, place), brute_force(stream, place, seq_len)
        for name, a, b in zip(packing.Batch._fields, got, want, strict=True):
            np.testing.assert_array_equal(a, b, err_msg=f"{name} of window {place}")


@hypothesis.given(
    lengths=st.lists(st.integers(1, 12), min_size=2, max_size=20), seq_len=st.integers(1, 9)
)
@hypothesis.settings(deadline=None, max_examples=50)
def test_an_epoch_sees_each_token_once_up_to_the_dropped_remainder(lengths, seq_len):
    hypothesis.assume(sum(lengths) > seq_len)
    source = packed(lengths, seq_len, shuffled)
    for epoch in range(2):
        num_windows = (sum(lengths) - 1) // seq_len
        windows = [source.window_of(epoch, place) for place in range(num_windows)]
        seen = np.concatenate([window.tokens for window in windows])
        stream = [token for token, _, _ in concatenation(lengths, source.order(epoch).documents_N)]
        np.testing.assert_array_equal(seen, stream[: len(seen)])
        assert len(stream) - len(seen) <= seq_len


def test_padded_windows_cover_every_token_of_the_heldout_side():
    source = packed([5, 7, 3], seq_len=4)
    windows = [source.window_of(0, place) for place in range(source.num_padded_windows)]
    targets = np.concatenate([window.targets[window.segment_ids > 0] for window in windows])
    np.testing.assert_array_equal(targets, np.arange(1, 15))


def test_epochs_and_keys_order_documents_differently():
    array = packed([1] * 50, seq_len=4).array
    orders = [
        packing.shuffled(array, seed)(epoch).documents_N for seed in (0, 1) for epoch in (0, 1)
    ]
    assert len({tuple(order) for order in orders}) == 4


def test_permutation_is_fixed_for_all_time():
    # A change of this order would silently change the data of every resumed run.
    np.testing.assert_array_equal(packing.random_permutation(8, "a", 1), [2, 5, 0, 3, 6, 4, 7, 1])
    assert packing.seed_of("a", 1, bits=32) == 2280300097
