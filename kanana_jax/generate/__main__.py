"""Generates text: python -m kanana_jax.generate --checkpoint=DIR --prompt="Once upon a time".

The folder is one of `kanana_jax.convert`. Give --prompt several times for a batch. Exit code 2: the
folder or a setting cannot be used.
"""

import argparse
import sys
from pathlib import Path

from absl import logging

from kanana_jax import config, generate
from kanana_jax.checkpoint import CheckpointError
from kanana_jax.data import DataError

_CHUNK = 128


def main(argv: list[str] | None = None) -> None:
    arguments = _parser().parse_args(argv)
    logging.set_verbosity(logging.ERROR)
    try:
        _generate(arguments)
    except (CheckpointError, config.ConfigError, DataError, ValueError) as error:
        print(f"kanana_jax: {error}", file=sys.stderr)
        sys.exit(2)


def _generate(arguments: argparse.Namespace) -> None:
    how = generate.Sampling(
        temperature=arguments.temperature,
        top_k=arguments.top_k,
        top_p=arguments.top_p,
        min_p=arguments.min_p,
        seed=arguments.seed,
    )
    loaded = generate.load(arguments.checkpoint, arguments.dtype)
    requests = [
        generate.Request(
            prompt=loaded.prompt_ids(prompt),
            max_tokens=arguments.max_tokens,
            sampling=how,
            stop=tuple(arguments.stop),
        )
        for prompt in arguments.prompt
    ]
    longest = max(len(request.prompt) for request in requests) + arguments.max_tokens
    engine = loaded.engine(
        num_rows=min(len(requests), arguments.batch_size),
        length=-(-longest // _CHUNK) * _CHUNK,
        chunk=_CHUNK,
    )
    _show(engine, requests)


def _show(engine: generate.Engine, requests: list[generate.Request]) -> None:
    """One prompt is streamed; of several, each text is a line block when it is whole."""
    texts = [""] * len(requests)
    for piece in engine.run(requests):
        if len(requests) == 1:
            print(piece.text, end="", flush=True)
        texts[piece.request] += piece.text
    if len(requests) == 1:
        print()
        return
    for number, text in enumerate(texts, start=1):
        print(f"[{number}] {text}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m kanana_jax.generate", allow_abbrev=False)
    parser.add_argument("--checkpoint", type=Path, required=True, help="a converted model's folder")
    parser.add_argument("--prompt", action="append", required=True, help="may be repeated")
    parser.add_argument("--max-tokens", type=int, default=128)
    parser.add_argument("--temperature", type=float, default=1.0, help="0: the most likely token")
    parser.add_argument("--top-k", type=int, default=0, help="0: all")
    parser.add_argument("--top-p", type=float, default=1.0)
    parser.add_argument("--min-p", type=float, default=0.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--stop", action="append", default=[], help="a string; may be repeated")
    parser.add_argument("--batch-size", type=int, default=8, help="prompts decoded at once")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), help="default: the model's")
    return parser


if __name__ == "__main__":
    main()
