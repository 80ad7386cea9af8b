"""A turn of the model read while it is written: its reasoning, its content, its calls.

    text so far -> what is sure of it; nothing that may still become a mark is handed out

The message is the same however the text is cut into pieces. What is marked as a call but is not one
is content.
"""

from typing import Any, Literal, NamedTuple

from kanana_jax.data.chat.dialects import Dialect, Thinking
from kanana_jax.data.chat.format import FormatError

_State = Literal["start", "thought", "content", "call", "between"]
_FIRST: dict[Thinking, _State] = {"open": "thought", "over": "content", "possible": "start"}


class Said(NamedTuple):
    """What a piece of text adds to a message."""

    reasoning: str = ""
    content: str = ""
    calls: tuple[dict[str, Any], ...] = ()


class Reader:
    """Reads one turn after a prompt that has left the reasoning in the state `thinking`."""

    def __init__(self, dialect: Dialect, thinking: Thinking, *, reads_calls: bool):
        self._dialect, self._reads_calls = dialect, reads_calls
        self._state: _State = _FIRST[thinking]
        self._held = ""
        # New lines that may belong to a mark.
        self._num_skipped = self._padding(1) if thinking == "open" else 0
        self._is_at_line = True
        self._said = Said()

    def push(self, text: str) -> Said:
        """What is sure after this text."""
        return self._read(text, is_end=False)

    def finish(self) -> Said:
        """The rest, when no text follows."""
        return self._read("", is_end=True)

    def _read(self, text: str, *, is_end: bool) -> Said:
        self._held, self._said = self._held + text, Said()
        steps = {
            "start": self._start,
            "thought": self._thought,
            "content": self._content,
            "call": self._call,
            "between": self._between,
        }
        while steps[self._state](is_end):
            pass
        return self._said

    def _add(self, reasoning: str = "", content: str = "", calls: tuple = ()) -> None:
        said = self._said
        self._said = Said(said.reasoning + reasoning, said.content + content, said.calls + calls)
        if content:
            self._is_at_line = content.endswith("\n")

    def _padding(self, number: int) -> int:
        """The number of new lines next to a mark of reasoning."""
        return 0 if self._dialect.is_line else number

    def _start(self, is_end: bool) -> bool:
        mark = self._dialect.thought[0]
        if self._held.startswith(mark):
            self._held = self._held.removeprefix(mark)
            self._num_skipped, self._state = self._padding(1), "thought"
        elif mark.startswith(self._held) and not is_end:
            return False
        else:
            self._state = "content"
        return True

    def _skip(self) -> bool:
        """Drops new lines after a mark; says whether it is clear which they are."""
        while self._num_skipped and self._held.startswith("\n"):
            self._held, self._num_skipped = self._held[1:], self._num_skipped - 1
        self._num_skipped = 0 if self._held else self._num_skipped
        return bool(self._held)

    def _thought(self, is_end: bool) -> bool:
        if not self._skip():
            return False
        before, mark, rest = self._held.partition(self._dialect.thought[1])
        if mark:
            self._add(reasoning=before.removesuffix("\n" * self._padding(1)))
            self._held, self._num_skipped, self._state = rest, self._padding(2), "content"
            return True
        sure = len(self._held) if is_end else self._num_sure(self._dialect.thought[1])
        self._add(reasoning=self._held[:sure])
        self._held = self._held[sure:]
        return False

    def _content(self, is_end: bool) -> bool:
        if not self._skip():
            return False
        if not self._reads_calls:
            self._add(content=self._held)
            self._held = ""
            return False
        place = self._find_opening()
        if place is not None:
            self._add(content=self._held[:place].removesuffix("\n"))
            self._held = self._held[place:].removeprefix(self._dialect.opening)
            self._state = "between" if self._dialect.section[0] else "call"
            return True
        sure = len(self._held) if is_end else self._num_sure(self._dialect.opening)
        self._add(content=self._held[:sure])
        self._held = self._held[sure:]
        return False

    def _find_opening(self) -> int | None:
        mark = self._dialect.opening
        if not self._dialect.is_line:
            place = self._held.find(mark)
        elif self._is_at_line and self._held.startswith(mark):
            place = 0
        else:
            place = self._held.find("\n" + mark) + 1 or -1
        return None if place < 0 else place

    def _call(self, is_end: bool) -> bool:
        """A call, up to the first of its closing marks at which it can be read."""
        closing, first = self._dialect.call[1], None
        place = self._held.find(closing)
        while place >= 0 or (is_end and self._dialect.is_line and first is None):
            end = len(self._held) if place < 0 else place
            first = end if first is None else first
            try:
                found = self._dialect.read(self._held[:end])
            except FormatError:
                if self._dialect.is_line:
                    break
                place = self._held.find(closing, end + 1)
                continue
            self._add(calls=(found,))
            self._held, self._state = self._held[end:].removeprefix(closing), "between"
            return True
        if first is None and not is_end:
            return False
        if not (is_end or self._dialect.is_line):
            return False
        return self._give_up(first)

    def _give_up(self, first: int | None) -> bool:
        """Treats what is marked as a call as content, up to its first closing mark."""
        end = len(self._held) if first is None else first
        closing = self._dialect.call[1] if self._held[end:] else ""
        self._add(content=self._dialect.call[0] + self._held[:end] + closing)
        self._held, self._state = self._held[end:].removeprefix(closing), "content"
        return bool(self._held)

    def _between(self, is_end: bool) -> bool:
        """After a call, or before the first of a section."""
        begin, end = self._dialect.call[0], self._dialect.section[1]
        rest = self._held.lstrip()
        if not rest:
            self._held = "" if is_end else self._held
            return False
        if rest.startswith(begin):
            self._held, self._state = rest.removeprefix(begin), "call"
        elif end and rest.startswith(end):
            self._held, self._state = rest.removeprefix(end), "content"
        elif not is_end and (begin.startswith(rest) or end.startswith(rest)):
            return False
        else:
            self._held, self._state = rest, "content"
        return True

    def _num_sure(self, mark: str) -> int:
        """The number of held characters before a possible mark and any new line before it."""
        text = self._held
        for begin in range(max(len(text) - len(mark), 0), len(text)):
            if mark.startswith(text[begin:].removeprefix("\n")):
                return begin
        return len(text)
