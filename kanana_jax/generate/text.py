"""From a growing list of ids to text that can be shown, ending at a stop string."""

from collections.abc import Callable, Sequence

_INCOMPLETE = "\ufffd"  # a decoder's sign for bytes that do not end a character yet


class TextStream:
    """Hands out text as its tokens come; holds back what may still become a stop string."""

    def __init__(self, decode: Callable[[Sequence[int]], str], stop: Sequence[str] = ()):
        self._decode, self._stop = decode, stop
        self._ids: list[int] = []
        self._num_shown = 0
        self.is_stopped = False

    def push(self, token: int) -> str:
        """The text that `token` makes safe to show; sets `is_stopped` at a stop string."""
        self._ids.append(token)
        text = self._decode(self._ids)
        # A stop string that was held back may have begun before the last token.
        found = [at for stop in self._stop if (at := text.find(stop, self._num_shown)) >= 0]
        if found:
            self.is_stopped = True
            return self._show(text, min(found))
        end = len(text.rstrip(_INCOMPLETE))
        return self._show(text, max(self._num_shown, end - self._held_back(text[:end])))

    def finish(self) -> str:
        """What is left when no token follows."""
        text = self._decode(self._ids)
        return "" if self.is_stopped else self._show(text, len(text))

    def _held_back(self, text: str) -> int:
        """Length of the longest end of `text` with which a stop string begins."""
        return max(
            (n for stop in self._stop for n in range(1, len(stop)) if text.endswith(stop[:n])),
            default=0,
        )

    def _show(self, text: str, end: int) -> str:
        new = text[self._num_shown : end]
        self._num_shown = end
        return new
