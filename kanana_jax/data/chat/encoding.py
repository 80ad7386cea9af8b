"""Conversations as ids, each with its origin; the same for training, rollouts and the server.

    BOS  ids of piece 1  [end]  ids of piece 2  [end] ...

An id has the origin of its piece. A closed piece ends with the format's end token, where the
tokenizer has it, else with EOS. BOS is left out where EOS stands in for it.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from kanana_jax.data.chat.format import Format
from kanana_jax.data.chat.messages import Message, Tool
from kanana_jax.data.chat.pieces import Origin, Piece
from kanana_jax.data.tokenizer import Tokenizer


class Encoded(NamedTuple):
    """Ids, and where each is from."""

    ids: list[int]
    origins: list[Origin]


def encode(
    fmt: Format,
    tokenizer: Tokenizer,
    messages: Sequence[Message],
    tools: Sequence[Tool] = (),
    add_generation_prompt: bool = False,
) -> Encoded:
    """The ids of a conversation, from BOS on."""
    pieces = fmt.render(messages, tools, add_generation_prompt)
    (found,) = encode_pieces(fmt, tokenizer, [pieces])
    return found


def continuation(
    fmt: Format,
    tokenizer: Tokenizer,
    messages: Sequence[Message],
    tools: Sequence[Tool],
    start: int,
) -> Encoded:
    """The ids of messages[start:] and of the generation prompt behind them.

    They follow the ids of messages[:start]. Where the last of those is an answer, they follow the
    sampled token that ended it.
    """
    before = fmt.render(messages[:start], tools)
    pieces = fmt.render(messages, tools, add_generation_prompt=True)
    num_before = len(before)
    if start and messages[start - 1]["role"] == "assistant":
        num_before = 1 + max(n for n, one in enumerate(before) if one.origin is Origin.MODEL)
    if pieces[:num_before] != before[:num_before]:
        raise ValueError(
            f"expected the format {fmt.name} to write the first {start} messages the same whatever "
            "follows them; take start behind an answer, and results of one turn together"
        )
    (found,) = encode_pieces(fmt, tokenizer, [pieces[num_before:]], has_bos=False)
    return found


def end_id(fmt: Format, tokenizer: Tokenizer) -> int | None:
    """The token that ends a turn."""
    found = tokenizer.token_id(fmt.end) if fmt.end else None
    return tokenizer.eos_id if found is None else found


def bos_ids(fmt: Format, tokenizer: Tokenizer) -> tuple[int, ...]:
    """The ids that a conversation begins with."""
    is_own = tokenizer.bos_id not in (None, tokenizer.eos_id)
    return (tokenizer.bos_id,) if is_own and not fmt.is_foreign else ()  # pyright: ignore


def encode_pieces(
    fmt: Format,
    tokenizer: Tokenizer,
    conversations: Iterable[Sequence[Piece]],
    *,
    has_bos: bool = True,
) -> list[Encoded]:
    """The ids of each conversation's pieces, tokenized together."""
    conversations = [*conversations]
    texts = [
        piece.text.encode()
        for pieces in conversations
        for piece in pieces
        if not piece.has_special_tokens
    ]
    plain = iter(tokenizer.encode_batch(texts))
    marks = {
        piece.text: tokenizer.encode_marked(piece.text)
        for piece in {one for pieces in conversations for one in pieces if one.has_special_tokens}
    }
    end, bos = end_id(fmt, tokenizer), bos_ids(fmt, tokenizer) if has_bos else ()
    found = []
    for pieces in conversations:
        ids, origins = [*bos], [Origin.TEMPLATE] * len(bos)
        for piece in pieces:
            own = marks[piece.text] if piece.has_special_tokens else next(plain).tolist()
            own = [*own, end] if piece.is_closed else own
            ids += own
            origins += [piece.origin] * len(own)
        found.append(Encoded(ids, origins))
    return found
