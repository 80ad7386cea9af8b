"""Rephrases documents through an endpoint: python -m kanana_jax.synthesize IN... --to=OUT.

    --endpoint=http://127.0.0.1:8000/v1 --model=NAME --styles=faq,wiki --language=ko

An IN is read as an entry of `data.paths`. The key of the endpoint is read from the environment
variable that --key-variable names. OUT/documents.jsonl has the rewrites that passed the checks of
fidelity, OUT/left_out.jsonl the others with what is wrong. The same command asks only what has no
answer yet. Exit code 2: a flag or the text cannot be used, or the endpoint answers nothing.
"""

import argparse
import asyncio
import json
import os

from kanana_jax import config, errors, extras
from kanana_jax.config import paths
from kanana_jax.data import sources
from kanana_jax.data.curate.document import Document, of_text

with extras.needed("train", "synthesize"):
    from kanana_jax.synthesize import client, rephrase, running, styles

_PROGRAM = "kanana_jax.synthesize"
LANGUAGES = ("en", "ko", "ja", "zh", "th", "vi", "de", "fr", "es", "ru")


def main(argv: list[str] | None = None) -> None:
    arguments = _parser().parse_intermixed_args(argv)
    with errors.reported(_PROGRAM):
        settings, client_settings = _settings(arguments)
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
            client_settings,
            out,
            prices=(arguments.price_in, arguments.price_out),
            shows_progress=True,
        )
        print(json.dumps(asyncio.run(made)))


def _settings(arguments: argparse.Namespace) -> tuple[rephrase.Settings, client.Settings]:
    wanted = [one for one in arguments.styles.split(",") if one]
    unknown = [one for one in wanted if one not in styles.STYLES]
    if unknown or not wanted or len(set(wanted)) < len(wanted):
        raise config.ConfigError(
            f"--styles must be of {','.join(styles.STYLES)}, each once, got {arguments.styles!r}"
        )
    if not arguments.endpoint.startswith(("http://", "https://")):
        raise config.ConfigError(
            f"--endpoint must begin with http:// or https://, got {arguments.endpoint!r}"
        )
    for name in ("concurrency", "chunk_bytes", "max_tokens", "attempts"):
        if getattr(arguments, name) < 1:
            flag = f"--{name.replace('_', '-')}"
            raise config.ConfigError(f"{flag} must be 1 or more, got {getattr(arguments, name)}")
    key = ""
    if arguments.key_variable:
        key = os.environ.get(arguments.key_variable, "")
        if not key:
            raise config.ConfigError(
                f"--key-variable={arguments.key_variable}: there is no such variable; export it"
            )
    of_rephrasing = rephrase.Settings(
        model=arguments.model,
        styles=wanted,
        chunk_bytes=arguments.chunk_bytes,
        max_tokens=arguments.max_tokens,
        temperature=arguments.temperature,
        are_solutions=arguments.solutions,
    )
    of_client = client.Settings(
        endpoint=arguments.endpoint,
        api_key=key,
        concurrency=arguments.concurrency,
        requests_per_minute=arguments.requests_per_minute,
        tokens_per_minute=arguments.tokens_per_minute,
        timeout_s=arguments.timeout,
        attempts=arguments.attempts,
    )
    return of_rephrasing, of_client


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
    add("inputs", nargs="+", metavar="IN", help="files, globs or URLs")
    add("--to", required=True, help="a folder")
    add("--endpoint", required=True, help="of OpenAI's interface, up to and with /v1")
    add("--model", required=True, help="as the endpoint calls it")
    add("--language", required=True, choices=LANGUAGES, help="of the text")
    add("--styles", default="wiki", help=f"of {','.join(styles.STYLES)}")
    add("--text-field", default="text", help="of JSON, Parquet and Arrow")
    add("--chunk-bytes", type=int, default=1024, help="most of the source in a request")
    add("--max-tokens", type=int, default=1024, help="most of an answer")
    add("--temperature", type=float, default=0.7)
    add("--solutions", action="store_true", help="of problems: their final answers must stay")
    add("--concurrency", type=int, default=16, help="requests under way at a time")
    add("--requests-per-minute", type=float, default=0.0, help="0: no limit")
    add("--tokens-per-minute", type=float, default=0.0, help="0: no limit")
    add("--timeout", type=float, default=300.0, help="seconds of one attempt")
    add("--attempts", type=int, default=6, help="of a request, where a fault may pass")
    add("--key-variable", help="environment variable that holds the endpoint's key")
    add("--price-in", type=float, default=0.0, help="of a million tokens, for the progress bar")
    add("--price-out", type=float, default=0.0, help="the same of answers")
    add("--dry-run", action="store_true", help="read and check everything, ask nothing")
    return parser


if __name__ == "__main__":
    main()
