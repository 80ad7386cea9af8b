"""Sentences of a text, and chunks that end where sentences do.

A sentence ends after . ! ? and their kin, and any closing marks after them, before a blank; in
Japanese and Chinese no blank is needed; a line end always ends one. Thai marks no sentences: there
blanks separate them. The parts put together are the text, to the byte.
"""

import re

_CLOSERS = "\"')\\]\u201d\u2019\u300d\u300f\uff09\u00bb"
_END = re.compile(
    f"[.!?\u2026]+[{_CLOSERS}]*(?=\\s)\\s*|[\u3002\uff01\uff1f]+[{_CLOSERS}]*\\s*|\n\\s*"
)
_THAI = re.compile("(?<=[\u0e00-\u0e7f])[ \n]+(?=[\u0e00-\u0e7f])|\n\\s*")
_THAI_LETTER = re.compile("[\u0e00-\u0e7f]")
# No sentence ends at the full stop of these; a single letter is an initial.
_ABBREVIATION = re.compile(
    r"(?:^|[\s(\"'])(?:[A-Z]|[a-z]|Mr|Mrs|Ms|Dr|Prof|St|No|vs|etc|cf|Fig|Eq|approx|e\.g|i\.e|"
    r"z\.B|d\.h|u\.a|bzw|ca|Nr|Abs|Hr|Fr|Sr|Sra|p\.ej|pp?|M|Mme|TP|ThS|TS)\.$"
)


def sentences(text: str) -> list[str]:
    """The sentences in order, each with the blanks after it."""
    is_thai = len(_THAI_LETTER.findall(text)) * 3 > len(text)
    found, start = [], 0
    for match in (_THAI if is_thai else _END).finditer(text):
        head = text[start : match.end()]
        if not is_thai and "\n" not in match[0] and _ABBREVIATION.search(head.rstrip()):
            continue
        if head.strip():
            found.append(head)
            start = match.end()
    if text[start:]:
        found.append(text[start:])
    return found


def chunks(text: str, size: int) -> list[str]:
    """Chunks of at most `size` bytes of UTF-8, unless a single sentence has more."""
    found: list[str] = []
    for sentence in sentences(text):
        if found and len((found[-1] + sentence).rstrip().encode()) <= size:
            found[-1] += sentence
        else:
            found.append(sentence)
    return found


def tail(text: str, size: int) -> str:
    """The last whole sentences of at most `size` bytes; the end of the last one if it has more.

    A model goes on from there.
    """
    taken: list[str] = []
    for sentence in reversed(sentences(text)):
        if taken and len("".join([sentence, *taken]).encode()) > size:
            break
        taken.insert(0, sentence)
    return "".join(taken).encode()[-size:].decode("utf-8", "ignore").strip()
