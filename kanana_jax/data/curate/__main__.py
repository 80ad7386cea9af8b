"""Curates documents: python -m kanana_jax.data.curate IN... --to=OUT.

    --stages=normalise,language,heuristics,exact,minhash     in this order, the default
    --languages=en,ko --num-workers=2 --dry-run

An IN is read as an entry of `data.paths`; without any, the text that this Python carries. OUT gets
documents/*.jsonl, dropped/STAGE/*.jsonl with a reason in each line, report.md and report.json. The
same command continues a run that was ended, and gives the same bytes. Exit code 2: a flag or the
text cannot be used.
"""

import argparse
import importlib.metadata
import sys
from collections.abc import Iterable, Mapping
from typing import Any

from kanana_jax import config, errors
from kanana_jax.config import paths
from kanana_jax.data import files, sources
from kanana_jax.data.curate import chain, document, running
from kanana_jax.data.curate.document import Document

_PROGRAM = "kanana_jax.data.curate"


def main(argv: list[str] | None = None) -> None:
    arguments = _parser().parse_intermixed_args(argv)
    with errors.reported(_PROGRAM):
        plan = plan_of(arguments)
        out = paths.local(arguments.to, "--to")
        running.expect_same(plan, out)
        if arguments.dry_run:
            _show(plan, out)
            return
        paths.expect_folder(out, "--to")
        running.run(plan, out, num_workers=arguments.num_workers, tell=_tell)
        print(out / "report.md")


def plan_of(arguments: argparse.Namespace) -> running.Plan:
    """Checks all flags and opens what they name; nothing is written."""
    for name, low, high in (
        ("num_workers", 1, 1024),
        ("shard_mb", 0.001, 4096),
        ("most_dropped", 0, 1),
        ("min_confidence", 0, 1),
        ("similarity", 0.5, 1),
        ("hardest", 0, 1),
    ):
        if not low <= getattr(arguments, name) <= high:
            flag = f"--{name.replace('_', '-')}"
            raise config.ConfigError(
                f"{flag} must lie in [{low}, {high}], got {getattr(arguments, name)}"
            )
    stages = chain.of(arguments)
    cfg = config.DataConfig(
        paths=tuple(arguments.inputs),
        text_field=arguments.text_field,
        skip_bad_lines=arguments.skip_bad_lines,
    )
    opened = sources.open_sources(cfg)

    def documents() -> Iterable[Document]:
        for source in opened:
            for text in source.read():
                yield document.of_text(text.decode(), source.name)

    inputs = {"files": [_told(entry) for entry in cfg.paths] or _python(),
              "text_field": cfg.text_field, "skip_bad_lines": cfg.skip_bad_lines}  # fmt: skip
    return running.Plan(inputs, documents, stages, int(arguments.shard_mb * 1e6))


def _told(entry: str) -> Mapping[str, Any]:
    """What tells the files of an entry from others of the same names."""
    if entry in sources.BUILT_IN:
        installed = (f"{one.name} {one.version}" for one in importlib.metadata.distributions())
        return {"entry": entry, "packages": sorted(installed)}
    found = []
    for file in files.find(entry):
        info = file.filesystem.info(file.path)
        changed = str(info.get("mtime") or info.get("LastModified") or info.get("updated") or "")
        found.append([file.name, info.get("size"), changed])
    return {"entry": entry, "files": found}


def _python() -> list[Mapping[str, Any]]:
    return [{"entry": "python", "version": sys.version.split()[0]}]


def _show(plan: running.Plan, out: Any) -> None:
    for entry in plan.inputs["files"]:
        of_entry = entry.get("files")
        if of_entry is None:
            print(f"reads {entry['entry']}")
            continue
        size = sum(one[1] or 0 for one in of_entry)
        print(f"reads {entry['entry']}: {len(of_entry)} files, {size / 1e6:.2f} MB")
    for number, stage in enumerate(plan.stages, 1):
        settings = ", ".join(f"{name}={value}" for name, value in stage.settings.items())
        print(f"{number:02d}-{stage.name}: {settings or 'no settings'}")
    print(f"writes {out}; nothing was written by --dry-run")


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"python -m {_PROGRAM}", allow_abbrev=False)
    add = parser.add_argument
    add("inputs", nargs="*", metavar="IN", help="files, globs, URLs or python:packages")
    add("--to", required=True, help="a folder, new or of the same command")
    add("--stages", default=",".join(chain.DEFAULT), help=f"of {','.join(chain.NAMES)}")
    add("--languages", default="en,ko", help="which are kept, by the stage language")
    add("--min-confidence", type=float, default=0.5, help="of a language that a model tells")
    add("--most-dropped", type=float, default=0.05,
        help="share of a language that one rule may drop; 1: all beyond the anchors")  # fmt: skip
    add("--similarity", type=float, default=0.8, help="Jaccard index of near duplicates")
    add("--against", action="append", default=[], help="evaluation texts; may be repeated")
    add("--against-field", default="text", help="of their records")
    add("--model", help="a model's folder, for perplexity and education")
    add("--hardest", type=float, default=0.1, help="share of a language that perplexity drops")
    add("--labels", help="of education: a .jsonl of id or text, and label")
    add("--least-label", type=float, default=3.0, help="what education keeps is scored so, or more")
    add("--text-field", default="text", help="of JSON, Parquet and Arrow")
    add("--skip-bad-lines", action="store_true", help="leave out records that cannot be used")
    add("--num-workers", type=int, default=1, help="processes; changes no byte")
    add("--shard-mb", type=float, default=16.0, help="MB of text that are worked on at a time")
    add("--dry-run", action="store_true", help="check everything, show the plan, write nothing")
    return parser


if __name__ == "__main__":
    main()
