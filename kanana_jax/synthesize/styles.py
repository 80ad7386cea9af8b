"""Styles of rephrasing: the instructions for a chunk, and the end of the rewrite so far.

Perspectives and chunk-wise rewriting come from Kimi K2 (arXiv:2507.20534, sec. 2.2); faq, table and
tutorial from FinePhrase; wiki from WRAP (2401.16380); note from the learning note of SwallowMath.
"""

from collections.abc import Mapping

from kanana_jax.synthesize.requests import Message

VERSION = 1  # of the words below, which are part of a request's key anyway

STYLES: Mapping[str, str] = {
    "teacher": "as a patient teacher explains it to students, with the reasons spelt out",
    "expert": "as an expert writes it for colleagues, precise and dense",
    "journalist": "as a journalist reports it to general readers",
    "wiki": "as an article of an encyclopedia, neutral and well ordered",
    "faq": "as questions and answers that together say everything",
    "table": "with its facts in Markdown tables, and in sentences what fits no table",
    "tutorial": "as a tutorial in steps that build on each other",
    "note": "as a learning note: key points, how they hang together, what to remember",
}
_LANGUAGES = {"en": "English", "ko": "Korean", "ja": "Japanese", "zh": "Chinese", "th": "Thai",
              "vi": "Vietnamese"}  # fmt: skip

_SYSTEM = (
    "You rewrite text. Keep every fact: numbers, dates, units, names and code stay as they are. "
    "Add no fact that is not there. Write in {language}. Answer with the rewritten text alone."
)
_FIRST = "Rewrite the text {style}.\n\n<text>\n{text}\n</text>"
_NEXT = (
    "You are rewriting a long text {style}, part by part. Your rewrite so far ends so:\n\n"
    "<rewritten>\n{before}\n</rewritten>\n\nRewrite the next part so that it goes on from there. "
    "Do not repeat what is rewritten already.\n\n<text>\n{text}\n</text>"
)


def messages(style: str, text: str, before: str, language: str) -> list[Message]:
    """Request messages; `before` is the end of the rewrite so far, empty for the first chunk."""
    named = _LANGUAGES.get(language, "the language of the text")
    form = _NEXT if before else _FIRST
    asked = form.format(style=STYLES[style], text=text.strip(), before=before)
    return [
        {"role": "system", "content": _SYSTEM.format(language=named)},
        {"role": "user", "content": asked},
    ]
