"""A document on its way through the stages, and its line in a shard."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any, NamedTuple


class Document(NamedTuple):
    id: str  # stays with the text; of equal documents the one with the smaller id survives
    text: str
    source: str
    language: str = ""  # empty before it is identified
    notes: Mapping[str, float] = {}  # what stages measured: "quality", "bits_per_byte"

    def line(self, **more: Any) -> str:
        """JSON with a line end."""
        fields: dict[str, Any] = {"id": self.id, "text": self.text, "source": self.source}
        if self.language:
            fields["language"] = self.language
        if self.notes:
            fields["notes"] = dict(self.notes)
        return json.dumps(fields | more, ensure_ascii=False) + "\n"

    def with_note(self, name: str, value: float) -> "Document":
        return self._replace(notes={**self.notes, name: round(value, 6)})


class Dropped(NamedTuple):
    """Why a document is left out: a short name that the report counts, and the case in words."""

    reason: str
    detail: str = ""


Verdict = Document | Dropped


def of_text(text: str, source: str) -> Document:
    """A new document, whose id is a hash of its text."""
    return Document(hashlib.blake2b(text.encode(), digest_size=12).hexdigest(), text, source)


def of_line(line: str) -> Document:
    """The document of a line that `Document.line` wrote."""
    fields = json.loads(line)
    return Document(
        fields["id"],
        fields["text"],
        fields["source"],
        fields.get("language", ""),
        fields.get("notes", {}),
    )
