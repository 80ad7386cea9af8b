"""A request to an endpoint, its key in the cache, and seeds that depend on content alone."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Message = Mapping[str, Any]  # {"role": ..., "content": ...}, and what calls of tools need


@dataclass(frozen=True, kw_only=True)
class Request:
    """A chat completion request. Two with equal fields are one: the cache answers the second."""

    model: str
    messages: Sequence[Message]
    max_tokens: int
    seed: int
    temperature: float = 1.0
    top_p: float = 1.0
    more: Mapping[str, Any] = field(default_factory=dict)  # further fields of the body

    def body(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "messages": [dict(one) for one in self.messages],
            "max_tokens": self.max_tokens,
            "seed": self.seed,
            "temperature": self.temperature,
            "top_p": self.top_p,
            **self.more,
        }

    def key(self) -> str:
        """A hash of the body in its canonical form."""
        text = json.dumps(self.body(), sort_keys=True, ensure_ascii=False, separators=(",", ":"))
        return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()

    def num_tokens(self) -> int:
        """About how many tokens it takes, for limits: three bytes of text count as one."""
        size = sum(len(one["content"].encode("utf-8", "surrogatepass")) for one in self.messages)
        return size // 3 + self.max_tokens


def seed_of(*parts: str | int) -> int:
    """A seed in [0, 2^31) by a hash of document, chunk, style and the like."""
    text = json.dumps(parts, ensure_ascii=False)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest()) >> 1
