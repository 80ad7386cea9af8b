"""From a growing list of ids to text that can be shown, ending at a stop string."""

from collections.abc import Callable, Sequence

_INCOMPLETE = "\ufffd"  # what a decoder writes for bytes that do not complete a character yet
_MAX_OPEN = 3  # a character has at most 4 bytes
_MAX_WINDOW = 64  # tokens without a whole character between them


class TextStream:
    """Hands out text as its tokens come; holds back what may still become a stop string.

    Only a window of the last tokens is decoded again for each new one.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str], stop: Sequence[str] = ()):
        self._decode, self._stop = decode, stop
        self._window: list[int] = []
        self._num_context = 0  # tokens of the window whose text is known
        self._num_known = 0  # characters of the window's text that were read
        self._held = ""
        self.is_stopped = False

    def push(self, token: int) -> str:
        """The text that `token` makes safe to show; sets `is_stopped` at a stop string."""
        self._window.append(token)
        self._held += self._read()
        starts = [start for stop in self._stop if (start := self._held.find(stop)) >= 0]
        if starts:
            self.is_stopped = True
            return self._show(min(starts))
        return self._show(len(self._held) - self._num_held_back())

    def finish(self) -> str:
        """What is left when no token follows."""
        if self.is_stopped:
            return ""
        self._held += self._decode(self._window)[self._num_known :]
        return self._show(len(self._held))

    def _read(self) -> str:
        """New whole characters of the window."""
        text = self._decode(self._window)
        num_open = min(len(text) - len(text.rstrip(_INCOMPLETE)), _MAX_OPEN)
        if len(self._window) > _MAX_WINDOW:
            num_open = 0
        end = max(self._num_known, len(text) - num_open)
        new, self._num_known = text[self._num_known : end], end
        if not num_open:
            # A token's text may depend on the token before it, so that one stays.
            del self._window[: self._num_context]
            self._num_context = len(self._window)
            self._num_known = len(self._decode(self._window))
        return new

    def _num_held_back(self) -> int:
        """Length of the longest suffix of the held text with which a stop string begins."""
        return max(
            (
                n
                for stop in self._stop
                for n in range(1, len(stop))
                if self._held.endswith(stop[:n])
            ),
            default=0,
        )

    def _show(self, end: int) -> str:
        new, self._held = self._held[:end], self._held[end:]
        return new
