"""A conversation for the eye: its tokens as text, those of one origin together.

    coloured     grey for the format, blue for the user, green for the model, yellow for tools, cyan
                 for what the assistant said earlier
    in brackets  user[Hi.]template[\\nassistant: ]model[Hello.<257>]

Tokens that stand for no bytes are written <ID>.
"""

import itertools
from collections.abc import Iterator, Sequence

import numpy as np

from kanana_jax.data.chat.pieces import Origin
from kanana_jax.data.tokenizer import Tokenizer

_COLOURS = {
    Origin.TEMPLATE: 90,
    Origin.USER: 34,
    Origin.MODEL: 32,
    Origin.TOOL: 33,
    Origin.EARLIER: 36,
}
_MOST_TOKENS = 1500


def shown(
    ids: Sequence[int], origins: Sequence[int], tokenizer: Tokenizer, *, is_coloured: bool
) -> str:
    """The text of a conversation; the middle of a long one is left out."""
    half = _MOST_TOKENS // 2
    parts = [slice(None)] if len(ids) <= _MOST_TOKENS else [slice(half), slice(-half, None)]
    texts = [
        "".join(
            f"\x1b[{_COLOURS[origin]}m{text}\x1b[0m"
            if is_coloured
            else f"{origin.name.lower()}[{text}]"
            for origin, text in _spans(ids[part], origins[part], tokenizer)
        )
        for part in parts
    ]
    return f"\n... {len(ids) - _MOST_TOKENS:,} tokens ...\n".join(texts)


def _spans(
    ids: Sequence[int], origins: Sequence[int], tokenizer: Tokenizer
) -> Iterator[tuple[Origin, str]]:
    pairs = zip(map(int, ids), origins, strict=True)
    for origin, group in itertools.groupby(pairs, key=lambda pair: int(pair[1])):
        own = [index for index, _ in group]
        is_special = tokenizer.token_bytes_V[np.array(own)] == 0
        text = ""
        for special, part in itertools.groupby(zip(is_special, own, strict=True), lambda x: x[0]):
            found = [index for _, index in part]
            text += "".join(f"<{n}>" for n in found) if special else tokenizer.decode(found)
        yield Origin(origin), text
