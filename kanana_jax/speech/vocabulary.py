"""Codes of speech as tokens of a decoder: `<|s0|>`, `<|s1|>`, ... after those of text.

They are spelt in text like any other token, so what is said or heard is a message of a chat:

    user: en-m1: good morning        assistant: <|s41|><|s7|>...        to say
    user: <|s41|><|s7|>...           assistant: good morning            to write down what was said
"""

import re
from collections.abc import Callable, Iterable
from typing import NamedTuple

from kanana_jax.speech.errors import SpeechError

_SPELT = re.compile(r"<\|s([0-9]+)\|>")


class Vocabulary(NamedTuple):
    """Where the ids of codes lie, and the id that ends speech."""

    first: int
    num_codes: int
    end: int


def spelt(codes: Iterable[int]) -> str:
    return "".join(f"<|s{int(code)}|>" for code in codes)


def codes_in(text: str) -> list[int]:
    """The codes that a text spells, whatever stands between them."""
    return [int(digits) for digits in _SPELT.findall(text)]


def to_say(voice: str, text: str) -> str:
    """The message that asks for a text to be said."""
    return f"{voice}: {text}"


def with_codes(tokenizer_json: str, num_codes: int) -> str:
    """The tokenizer.json with a token for each code after all others."""
    import tokenizers

    library = tokenizers.Tokenizer.from_str(tokenizer_json)
    # Not special, so that an answer shows them.
    library.add_tokens([tokenizers.AddedToken(f"<|s{n}|>") for n in range(num_codes)])
    return library.to_str()


def of(token_id: Callable[[str], int | None], num_codes: int, end: int | None) -> Vocabulary:
    """The vocabulary of a tokenizer. SpeechError where its codes are not those of the codec."""
    first, last = token_id("<|s0|>"), token_id(f"<|s{num_codes - 1}|>")
    beyond = token_id(f"<|s{num_codes}|>")
    if first is None or last != first + num_codes - 1 or beyond is not None or end is None:
        raise SpeechError(
            f"speech needs a tokenizer with {num_codes} tokens <|s0|>, <|s1|>, ... in one piece "
            f"and an end of text, got ids {first}, {last}, {beyond} of the first, the last and one "
            f"beyond, and end {end}; give the folder that was trained with this codec"
        )
    return Vocabulary(first, num_codes, end)
