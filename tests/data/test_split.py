"""Train and held-out text: disjoint, stable, decided by content."""

import itertools

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from small_corpora import documents

from kanana_jax.data import split
from kanana_jax.data.errors import DataError
from kanana_jax.data.sources import Source

BLOCK_BYTES = split._BLOCK_BYTES[0]


def source(texts: list[str]) -> Source:
    return Source(name="s", read=lambda: (text.encode() for text in texts))


def sides(*sources: Source, fraction: float = 0.1) -> tuple[list[bytes], list[bytes]]:
    rules = [split.split_rule(s, fraction) for s in sources]
    pieces = [piece for _, piece in split.split_sources(sources, rules)]
    return tuple([p.text for p in pieces if p.is_heldout == side] for side in (False, True))


def test_sides_are_disjoint_and_lose_nothing():
    texts = documents(500)
    train, heldout = sides(source(texts))
    assert sorted(train + heldout) == sorted(text.encode() for text in texts)
    assert not set(train) & set(heldout)
    # Binomial(500, 0.1): five standard deviations.
    np.testing.assert_allclose(len(heldout), 50, atol=5 * np.sqrt(500 * 0.1 * 0.9))


def test_verdict_depends_on_neither_order_nor_neighbours():
    texts = documents(300)
    _, heldout = sides(source(texts))
    _, reversed_heldout = sides(source(texts[::-1]))
    assert set(heldout) == set(reversed_heldout)
    _, more = sides(source(texts + documents(200, 5000)))
    assert set(heldout) == set(more) & {text.encode() for text in texts}


def test_duplicates_are_kept_once_within_and_across_sources():
    texts = documents(200)
    train, heldout = sides(source(texts + texts[:50]), source(documents(100, 900) + texts[:50]))
    assert len(train + heldout) == len(set(train + heldout)) == 300


def test_one_long_document_is_split_into_contiguous_runs_of_blocks():
    text = "".join(f"Paragraph {i} says that {i * i}.\n\n" for i in range(9000))
    train, heldout = sides(source([text]), fraction=0.05)
    rule = split.split_rule(source([text]), 0.05)
    assert rule.block_bytes == BLOCK_BYTES
    pieces = [piece.text for _, piece in split.split_sources([source([text])], [rule])]
    assert b"".join(pieces) == text.encode()
    assert all(piece.endswith(b"\n\n") for piece in pieces)
    assert heldout and sum(map(len, heldout)) < 0.2 * len(text)
    assert max(map(len, train)) > 3 * BLOCK_BYTES, "neighbouring train blocks stay together"


@pytest.mark.parametrize("block_bytes", split._BLOCK_BYTES)
@hypothesis.given(text=st.text(min_size=1, max_size=8), repeats=st.integers(1, 3000))
@hypothesis.settings(deadline=None, max_examples=25)
def test_blocks_are_valid_utf8_of_bounded_size_that_concatenate_to_the_text(
    block_bytes, text, repeats
):
    content = (text * repeats).encode()
    blocks = list(split._blocks(content, block_bytes))
    assert b"".join(blocks) == content
    for block in blocks:
        block.decode()
        assert len(block) <= block_bytes


def test_something_is_always_held_out():
    # Enough documents to be taken whole, of which the hash alone would hold out none.
    texts = [t for t in documents(2000) if split._hash(t.encode()) >= 0.1 * 2**64][:90]
    train, heldout = sides(source(texts))
    assert len(heldout) == 1 and len(train) == 89


@hypothesis.given(
    num_words=st.integers(30, 900),
    count=st.integers(1, 12),
    fraction=st.sampled_from([1e-310, 1e-300, 1e-9, 0.02, 0.5, 0.9]),
)
@hypothesis.settings(deadline=None, max_examples=60)
def test_little_text_is_on_both_sides(num_words, count, fraction):
    texts = [" ".join(f"w{n}of{i}" for n in range(num_words)) for i in range(count)]
    train, heldout = sides(source(texts), fraction=fraction)
    assert sum(map(len, train + heldout)) == len("".join(texts))
    assert train and heldout


def test_a_single_short_text_is_mostly_trained_on():
    text = "".join(f"Line {i} of a note, which is short.\n" for i in range(90))
    assert len(text) < BLOCK_BYTES
    _, heldout = sides(source([text]), fraction=0.02)
    assert 0 < sum(map(len, heldout)) < 0.15 * len(text)


@pytest.mark.parametrize("texts", [["x"], ["same"] * 5000, ["too short " * 6]])
def test_text_that_cannot_be_on_both_sides_is_an_error(texts):
    with pytest.raises(DataError, match="expected distinct text for a training and a held-out"):
        split.split_rule(source(texts), 0.1)


def test_source_without_text_is_an_error():
    with pytest.raises(DataError, match="expected text, got none"):
        split.split_rule(source(["", " \n"]), 0.1)


def test_digest_sees_order_side_and_boundaries():
    pieces = [(0, split.Piece(b"ab", False)), (0, split.Piece(b"c", False))]
    changed = [
        pieces[::-1],
        [(0, split.Piece(b"a", False)), (0, split.Piece(b"bc", False))],
        [pieces[0], (0, split.Piece(b"c", True))],
        [pieces[0], (1, split.Piece(b"c", False))],
        pieces[:1],
    ]
    digests = [split.text_digest(variant) for variant in [pieces, *changed]]
    assert all(a != b for a, b in itertools.combinations(digests, 2))
