"""Characters, shingles and MinHash signatures are what their definitions say."""

import curated
import numpy as np
import pytest

from kanana_jax.data.curate import characters, minhash, shingles
from kanana_jax.data.curate.characters import Kind


def test_characters_are_counted_by_kind_and_text():
    read = characters.of(["\ud55c\uae00 \u30ab\u306a1!", "", "a\n\u6f22 +"])
    wanted = [
        {Kind.HANGUL: 2, Kind.SPACE: 1, Kind.KANA: 2, Kind.DIGIT: 1, Kind.PUNCTUATION: 1},
        {},
        {Kind.LATIN: 1, Kind.NEWLINE: 1, Kind.HAN: 1, Kind.SPACE: 1, Kind.SYMBOL: 1},
    ]
    assert [{Kind(k): n for k, n in enumerate(one) if n} for one in read.counts()] == wanted


def test_a_part_has_one_hash_wherever_it_stands():
    code_C = np.array([ord(c) for c in "abcXabcYabd"], np.uint32)
    hashes = characters.Hasher(code_C).parts(np.array([0, 4, 8]), np.array([3, 7, 11])).tolist()
    assert hashes[0] == hashes[1] != hashes[2]
    other = characters.Hasher(np.array([ord(c) for c in "..abc"], np.uint32))
    assert other.parts(np.array([2]), np.array([5])).tolist() == hashes[:1]


def _by_hand(text, language, words, letters):
    if language in shingles.BY_CHARACTERS:
        units, width = "".join(text.lower().split()), letters
    else:
        units, width = text.lower().split(), words
    last = max(len(units) - width, 0)
    return [tuple(units[i : i + width]) for i in range(last + 1)] if units else []


@pytest.mark.parametrize("batch", [2**16, 40])
def test_shingles_are_the_windows_of_each_text(batch, monkeypatch):
    monkeypatch.setattr(characters, "_BATCH", batch)
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(["a", "Bb", "c"], size)) for size in (0, 1, 2, 3, 4, 9, 40)]
    languages = ["en", "ko", "en", "en", "ko", "en", "ko"]
    found = shingles.of(texts, languages, words=3, letters=4)
    name_of = {}
    for place, (text, language) in enumerate(zip(texts, languages, strict=True)):
        hashes = found.hash_N[found.document_N == place].tolist()
        windows = [(language, *one) for one in _by_hand(text, language, 3, 4)]
        assert len(hashes) == len(windows)
        for window, hashed in zip(windows, hashes, strict=True):
            assert name_of.setdefault(window, hashed) == hashed
    assert len(set(name_of.values())) == len(name_of) > 20


def test_signatures_estimate_the_jaccard_index():
    rng = np.random.default_rng(1)
    words = [f"w{i}" for i in range(4000)]
    errors = []
    for size in rng.integers(40, 400, 80):
        text = " ".join(rng.choice(words, size))
        pair = [text, curated.changed(text, rng.uniform(0, 0.15), rng)]
        found = shingles.of(pair, ["en", "en"], words=5, letters=5)
        sets = [set(found.hash_N[found.document_N == place].tolist()) for place in (0, 1)]
        exact = len(sets[0] & sets[1]) / len(sets[0] | sets[1])
        errors.append(minhash.similarity(*minhash.signatures(found, 2)) - exact)
    # The deviation of a mean of 128 draws is sqrt(J (1 - J) / 128), .044 at most.
    assert np.sqrt(np.mean(np.square(errors))) < 0.06
    assert abs(np.mean(errors)) < 0.02


def test_only_near_duplicates_are_grouped():
    rng = np.random.default_rng(2)
    english, korean = curated.prose("en", 30), curated.prose("ko", 30)
    texts = [*english, *korean, curated.changed(english[3], 0.02, rng), korean[7].replace(" ", "")]
    languages = ["en"] * 30 + ["ko"] * 30 + ["en", "ko"]
    found = shingles.of(texts, languages, words=5, letters=5)
    group_D = minhash.groups(minhash.signatures(found, len(texts)), 0.8)
    wanted = list(range(len(texts)))
    wanted[60], wanted[61] = 3, 37
    assert group_D.tolist() == wanted
    # A pair that shares a band is no duplicate yet.
    assert minhash.groups(minhash.signatures(found, len(texts)), 1.0)[60] == 60


def test_texts_without_shingles_are_no_duplicates():
    found = shingles.of(["", "", "a"], ["en"] * 3, words=5, letters=5)
    assert minhash.groups(minhash.signatures(found, 3), 0.8).tolist() == [0, 1, 2]
