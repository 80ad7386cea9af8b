"""Korean particles, whose form follows the final sound of the word before them.

    word + 은, 이, 을, 과, 으로   where it ends with a consonant
    word + 는, 가, 를, 와, 로     where it ends with a vowel; 로 also behind an l

A Hangul syllable is code point 0xAC00 + (initial * 21 + vowel) * 28 + final; final 0 is none.
"""

from typing import Literal

Particle = Literal["은", "이", "을", "과", "으로"]

_AFTER_VOWEL: dict[Particle, str] = {"은": "는", "이": "가", "을": "를", "과": "와", "으로": "로"}
_DIGITS = "영일이삼사오육칠팔구"  # how each is read; tens, hundreds and so on end like 0
_FIRST, _LAST, _FINALS = 0xAC00, 0xD7A3, 28
_RIEUL = 8  # the number of the final consonant l


def with_particle(word: str, particle: Particle) -> str:
    """`word` and the fitting form of a particle, which is named by its form after a consonant.

    The word ends in a Hangul syllable or a digit; ValueError otherwise.
    """
    final = _final(word)
    takes_vowel_form = final == 0 or (particle == "으로" and final == _RIEUL)
    return word + (_AFTER_VOWEL[particle] if takes_vowel_form else particle)


def _final(word: str) -> int:
    """The number of the final consonant of the last syllable as it is read; 0: none."""
    last = word[-1:]
    if last.isascii() and last.isdigit():
        last = _DIGITS[int(last)]
    if not last or not _FIRST <= ord(last) <= _LAST:
        raise ValueError(f"expected a word that ends in a Hangul syllable or digit, got {word!r}")
    return (ord(last) - _FIRST) % _FINALS
