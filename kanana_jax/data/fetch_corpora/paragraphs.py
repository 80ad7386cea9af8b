"""From documentation to paragraphs: HTML and Mallard pages, manual pages, and which ones are kept.

keep a paragraph  <=>  long enough, most of its letters in the script of the language, not seen yet
"""

import html.parser
import re
import unicodedata
from collections.abc import Iterable, Iterator

_SKIPPED = {"head", "info", "header", "footer", "nav", "aside", "button", "script", "style", "pre",
            "code", "screen", "svg", "noscript"}  # fmt: skip
_BLOCKS = {"p", "li", "td", "th", "dt", "dd", "div", "title", "item", "section", "br", "caption",
           "h1", "h2", "h3", "h4", "h5", "h6", "summary", "table", "ul", "ol"}  # fmt: skip
# What the names of the letters of a script begin with; several for a mixture of scripts.
_SCRIPTS = {
    "ko": ("HANGUL",),
    "ja": ("HIRAGANA", "KATAKANA", "CJK"),
    "zh": ("CJK",),
    "th": ("THAI",),
    "ru": ("CYRILLIC",),
}
_SCRIPT_SHARE = 0.5  # of the letters
_SHORTEST, _SHORTEST_DENSE = 30, 12  # characters; the latter in scripts that say more with one
_DENSE = ("ko", "ja", "zh", "th")

_ESCAPES = re.compile(r"\\f(\[.*?\]|\(..|.)|\\s[+-]?\d+|\\[&/,|^%:c]|\\\*(\[.*?\]|\(..|.)|\\\".*")
_CHARACTERS = {r"\-": "-", r"\(aq": "'", r"\(lq": '"', r"\(rq": '"', r"\(dq": '"', r"\(em": "-",
               r"\(en": "-", r"\(bu": "", r"\(co": "(c)", r"\~": " ", r"\ ": " ", r"\0": " ",
               r"\e": "\\", r"\(oq": "'", r"\(cq": "'", r"\(ha": "^", r"\(ti": "~"}  # fmt: skip
_FONTS = {".B", ".I", ".SM", ".SB", ".BR", ".RB", ".BI", ".IB", ".IR", ".RI"}
_NO_TEXT = {".nf": ".fi", ".EX": ".EE", ".TS": ".TE", ".de": "..", ".ig": ".."}  # start: end


class _Reader(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.found: list[str] = []
        self._text: list[str] = []
        self._skipping = 0  # how many of the enclosing elements are left out

    def handle_starttag(self, tag, attrs):
        self._skipping += tag in _SKIPPED
        if tag in _BLOCKS:
            self.end()

    def handle_endtag(self, tag):
        self._skipping = max(0, self._skipping - (tag in _SKIPPED))
        if tag in _BLOCKS:
            self.end()

    def handle_data(self, data):
        if not self._skipping:
            self._text.append(data)

    def end(self):
        self.found.append("".join(self._text))
        self._text = []


def of_markup(text: str) -> list[str]:
    """The paragraphs of an HTML or Mallard page, without menus and code."""
    reader = _Reader()
    reader.feed(text)
    reader.close()
    reader.end()
    return _tidy(reader.found)


def of_manual(text: str) -> list[str]:
    """The paragraphs of a manual page in the man macros; none for mdoc, which macros cut up."""
    if re.search(r"^\.Dd", text, re.MULTILINE):
        return []
    found, lines, until = [], [], ""
    for line in text.splitlines():
        name, _, rest = line.partition(" ")
        if until:
            until = "" if name == until else until
        elif name in _FONTS:
            # Fonts in turn, without blanks between them.
            lines.append(rest if len(name) == 2 else "".join(re.findall(r'"[^"]*"|\S+', rest)))
        elif line[:1] in (".", "'"):
            found.append(" ".join(lines))
            lines, until = [], _NO_TEXT.get(name, "")
        else:
            lines.append(line)
    return _tidy(map(_plain, [*found, " ".join(lines)]))


def kept(paragraphs: Iterable[str], language: str, seen: set[str]) -> Iterator[str]:
    """Paragraphs that are text of the language and not in `seen`; they are added to it."""
    for text in paragraphs:
        if text not in seen and _is_of(text, language):
            seen.add(text)
            yield text


def _is_of(text: str, language: str) -> bool:
    if len(text) < (_SHORTEST_DENSE if language in _DENSE else _SHORTEST):
        return False
    wanted = _SCRIPTS.get(language, ("LATIN",))
    letters = [unicodedata.name(c, "") for c in text if c.isalpha()]
    if sum(name.startswith(wanted) for name in letters) < max(1, _SCRIPT_SHARE * len(letters)):
        return False
    # Chinese has no kana, and Japanese hardly does without.
    has_kana = any(name.startswith(("HIRAGANA", "KATAKANA")) for name in letters)
    return has_kana == (language == "ja") if language in ("ja", "zh") else True


def _plain(text: str) -> str:
    """Text of a manual page without its escapes."""
    for escape, character in _CHARACTERS.items():
        text = text.replace(escape, character)
    return _ESCAPES.sub("", text.replace('"', ""))


def _tidy(texts: Iterable[str]) -> list[str]:
    """The texts with single blanks, without empty ones."""
    return [tidy for text in texts if (tidy := " ".join(text.split()))]
