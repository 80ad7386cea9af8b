"""Particles by the final consonant."""

import pytest

from kanana_jax import korean


@pytest.mark.parametrize(
    ("word", "particle", "expected"),
    [
        ("나", "은", "나는"),
        ("강", "은", "강은"),
        ("물", "이", "물이"),
        ("차", "이", "차가"),
        ("책", "을", "책을"),
        ("나무", "을", "나무를"),
        ("빵", "과", "빵과"),
        ("우유", "과", "우유와"),
        ("집", "으로", "집으로"),
        ("학교", "으로", "학교로"),
        ("서울", "으로", "서울로"),  # the one consonant that takes the form of vowels
        ("서울", "은", "서울은"),
        ("3", "을", "3을"),
        ("2", "을", "2를"),
        ("10", "을", "10을"),
        ("7", "으로", "7로"),
        ("3", "으로", "3으로"),
        ("10", "으로", "10으로"),
        ("1", "으로", "1로"),
        ("4 5", "이", "4 5가"),
    ],
)
def test_a_particle_has_the_form_that_the_word_asks_for(word, particle, expected):
    assert korean.with_particle(word, particle) == expected


@pytest.mark.parametrize("word", ["", "cat", "나!", "\u314f"])
def test_a_word_whose_sound_is_not_known_is_refused(word):
    with pytest.raises(ValueError, match="expected a word that ends in a Hangul syllable"):
        korean.with_particle(word, "은")
