"""What jobs on conversations do before the first step: keep the template, show a conversation."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kanana_jax.data.chat import choice, sample
from kanana_jax.data.chat.format import expect_twin
from kanana_jax.data.whole_documents import WholeDocuments
from kanana_jax.workdir import events


def begin(corpus: WholeDocuments, folders: Sequence[Path]) -> None:
    """Writes chat_template.jinja into the folders of runs, and reports one example."""
    keep_template(corpus, folders)
    events.show(described(corpus, is_coloured=sys.stderr.isatty()))


def keep_template(corpus: Any, folders: Sequence[Path]) -> None:
    """Writes chat_template.jinja for a corpus with a format and a tokenizer."""
    fmt = corpus.format
    if fmt.template and not fmt.is_foreign:
        expect_twin(fmt)
    template = choice.template_for(fmt, corpus.tokenizer)
    for folder in folders if template else ():
        folder.mkdir(parents=True, exist_ok=True)
        (folder / choice.TEMPLATE_NAME).write_text(template)


def described(corpus: WholeDocuments, *, is_coloured: bool) -> str:
    """The first training example as the model reads it, and which of its tokens are trained."""
    first = int(np.flatnonzero(~corpus.examples.is_heldout_N)[0])
    texts = []
    for place in corpus.examples.segments(first):
        ids = corpus.examples.tokens_T[place].tolist()
        origins = corpus.examples.origin_T[place].tolist()
        texts.append(sample.shown(ids, origins, corpus.tokenizer, is_coloured=is_coloured))
    said = f"the first of {corpus.kind} in the format {corpus.format.name}; the model's is trained"
    return "\n".join([said, *texts])
