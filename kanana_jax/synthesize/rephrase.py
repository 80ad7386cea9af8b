"""Rephrases a document chunk by chunk: each request has the end of what was rewritten before it.

    r_i = model(style, chunk_i, tail(r_1 ... r_{i-1}))

Chunks of a document wait for each other, documents do not. A judge sees, chunk by chunk, what
code finds nothing wrong with.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from kanana_jax.data.curate.document import Document, of_text
from kanana_jax.synthesize import chunks, fidelity, judging, styles
from kanana_jax.synthesize.fidelity import Problem
from kanana_jax.synthesize.replies import Ask, RequestFailed
from kanana_jax.synthesize.requests import Request, seed_of


@dataclass(frozen=True, kw_only=True)
class Settings:
    model: str
    styles: Sequence[str]
    chunk_bytes: int = 1024  # of source
    tail_bytes: int = 512  # of the rewrite so far
    max_tokens: int = 1024
    temperature: float = 0.7
    are_solutions: bool = False  # each document ends in an answer, which must stay
    judge: str = ""  # a model, which has the last word; empty: code alone decides
    limits: fidelity.Limits = fidelity.Limits()  # noqa: RUF009


class Rewritten(NamedTuple):
    """A document in a style; `problems` and `failure` say why it is not to be used."""

    source: Document
    style: str
    text: str = ""
    problems: tuple[Problem, ...] = ()
    failure: str = ""

    @property
    def is_usable(self) -> bool:
        return not self.problems and not self.failure

    def document(self) -> Document:
        new = of_text(self.text, f"{self.source.source}, {self.style}")
        return new._replace(language=self.source.language)

    def to_json(self) -> dict[str, Any]:
        """A line of what was left out."""
        found: dict[str, Any] = {"id": self.source.id, "style": self.style, "text": self.text}
        if self.failure:
            return found | {"failure": self.failure}
        return found | {"problems": [list(one) for one in self.problems]}


async def rephrase(document: Document, style: str, ask: Ask, settings: Settings) -> Rewritten:
    """Rephrases all chunks in turn. One without an answer ends it, as the next ones need it."""
    parts = chunks.chunks(document.text, settings.chunk_bytes)
    written: list[str] = []
    for number, part in enumerate(parts):
        before = chunks.tail("\n\n".join(written), settings.tail_bytes) if written else ""
        request = Request(
            model=settings.model,
            messages=styles.messages(style, part, before, document.language),
            max_tokens=settings.max_tokens,
            temperature=settings.temperature,
            seed=seed_of(document.id, number, style),
        )
        try:
            written.append((await ask(request)).text.strip())
        except RequestFailed as error:
            return Rewritten(document, style, "\n\n".join(written), failure=str(error))
    problems = [
        problem
        for part, text in zip(parts, written, strict=True)
        for problem in fidelity.check(part, text, document.language, settings.limits)
    ]
    text = "\n\n".join(written)
    if settings.are_solutions:
        problems += fidelity.check_answer(document.text, text, document.language)
    if settings.judge and not problems:
        try:
            for number, pair in enumerate(zip(parts, written, strict=True)):
                seed = seed_of("judge", document.id, number, style)
                problems += await judging.judge(*pair, ask, settings.judge, seed)
        except RequestFailed as error:
            return Rewritten(document, style, text, failure=f"judge: {error}")
    return Rewritten(document, style, text, tuple(problems))
