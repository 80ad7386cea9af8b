"""Rephrases documents through an endpoint: python -m kanana_jax.synthesize IN... --to=OUT.

    --endpoint=http://127.0.0.1:8000/v1 --model=NAME --styles=faq,wiki --language=ko

An IN is read as an entry of `data.paths`. The key of the endpoint is read from the environment
variable that --key-variable names. With --judge-model a model has the last word on each rewrite
that code finds nothing wrong with. OUT/documents.jsonl has the rewrites that passed the checks of
fidelity, OUT/left_out.jsonl the others and what is wrong. The same command, run again, asks only
what has no answer yet. Exit code 2: a flag or the text cannot be used, or the endpoint answers
nothing.
"""

import argparse
import asyncio
import json

from kanana_jax import config, errors, extras
from kanana_jax.config import paths
from kanana_jax.data import sources
from kanana_jax.data.curate.document import Document, of_text

with extras.needed("train", "synthesize"):
    from kanana_jax.synthesize import endpoints, fidelity, flags, rephrase, running, styles

_PROGRAM = "kanana_jax.synthesize"
LANGUAGES = ("en", "ko", "ja", "zh", "th", "vi", "de", "fr", "es", "ru")


def main(argv: list[str] | None = None) -> None:
    arguments = _parser().parse_intermixed_args(argv)
    with errors.reported(_PROGRAM):
        settings, by_model = _settings(arguments)
        fidelity.prepare(arguments.language)
        out = paths.local(arguments.to, "--to")
        documents = _documents(arguments)
        if arguments.dry_run:
            size = sum(len(one.text.encode()) for one in documents)
            print(f"{len(documents)} documents, {size / 1e6:.2f} MB, each in {arguments.styles}")
            return
        paths.expect_folder(out, "--to")
        made = running.run(
            documents,
            settings,
            by_model,
            out,
            prices=(arguments.price_in, arguments.price_out),
            shows_progress=True,
        )
        print(json.dumps(asyncio.run(made)))


def _settings(arguments: argparse.Namespace) -> tuple[rephrase.Settings, endpoints.ByModel]:
    wanted = [one for one in arguments.styles.split(",") if one]
    unknown = [one for one in wanted if one not in styles.STYLES]
    if unknown or not wanted or len(set(wanted)) < len(wanted):
        raise config.ConfigError(
            f"--styles must be of {','.join(styles.STYLES)}, each once, got {arguments.styles!r}"
        )
    flags.expect_positive(arguments, "chunk_bytes")
    of_rephrasing = rephrase.Settings(
        model=arguments.model,
        styles=wanted,
        chunk_bytes=arguments.chunk_bytes,
        max_tokens=arguments.max_tokens,
        temperature=arguments.temperature,
        are_solutions=arguments.solutions,
        judge=arguments.judge_model,
    )
    return of_rephrasing, flags.by_model(arguments, "judge")


def _documents(arguments: argparse.Namespace) -> list[Document]:
    cfg = config.DataConfig(paths=tuple(arguments.inputs), text_field=arguments.text_field)
    return [
        of_text(text.decode(), source.name)._replace(language=arguments.language)
        for source in sources.open_sources(cfg)
        for text in source.read()
        if text.strip()
    ]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"python -m {_PROGRAM}", allow_abbrev=False)
    add = parser.add_argument
    add("inputs", nargs="+", metavar="IN", help="files, globs, URLs or python:packages")
    add("--to", required=True, help="a folder")
    add("--language", required=True, choices=LANGUAGES, help="of the text")
    add("--styles", default="wiki", help=f"of {','.join(styles.STYLES)}")
    add("--text-field", default="text", help="of JSON, Parquet and Arrow")
    add("--chunk-bytes", type=int, default=1024, help="most of the source in a request")
    add("--temperature", type=float, default=0.7)
    add("--solutions", action="store_true", help="of problems: answers must stay, sums be right")
    flags.add(parser, "judge", "which says whether a rewrite says what its source says")
    return parser


if __name__ == "__main__":
    main()
