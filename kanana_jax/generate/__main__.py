"""Generates text: python -m kanana_jax.generate --checkpoint=DIR --prompt="Once upon a time".

The folder is from `kanana_jax.convert` or Hugging Face. Give --prompt several times for a batch;
with --chat each is a user's message, put into the checkpoint's chat template. Exit code 2:
the folder or a setting cannot be used.
"""

import argparse

from kanana_jax import config, errors, generate
from kanana_jax.generate import command

_PROGRAM = "kanana_jax.generate"
# Few distinct cache lengths mean few compilations, and kernels prefer round ones.
_LENGTH_STEP = 128


def main(argv: list[str] | None = None) -> None:
    arguments = _parser().parse_args(argv)
    with errors.reported(_PROGRAM):
        _generate(arguments)


def _generate(arguments: argparse.Namespace) -> None:
    how = generate.Sampling(
        temperature=arguments.temperature,
        top_k=arguments.top_k,
        top_p=arguments.top_p,
        min_p=arguments.min_p,
        seed=arguments.seed,
    )
    if arguments.system is not None and not arguments.chat:
        raise config.ConfigError("--system is part of a conversation; give --chat too")
    loaded = command.load(arguments)
    requests = [
        generate.Request(
            prompt=_prompt_ids(loaded, arguments, prompt),
            max_tokens=arguments.max_tokens,
            sampling=how.at_place(place),
            stop=tuple(arguments.stop),
        )
        for place, prompt in enumerate(arguments.prompt)
    ]
    longest = max(len(request.prompt) for request in requests) + arguments.max_tokens
    engine = loaded.engine(
        num_rows=min(len(requests), arguments.batch_size),
        length=-(-longest // _LENGTH_STEP) * _LENGTH_STEP,
    )
    _show(engine, requests)


def _prompt_ids(loaded: generate.Loaded, arguments: argparse.Namespace, prompt: str) -> list[int]:
    if not arguments.chat:
        return loaded.prompt_ids(prompt)
    system = [] if arguments.system is None else [{"role": "system", "content": arguments.system}]
    return loaded.chat_ids([*system, {"role": "user", "content": prompt}])


def _show(engine: generate.Engine, requests: list[generate.Request]) -> None:
    """Streams the text of one prompt; prints those of several as blocks when all are whole."""
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
    parser = command.model_parser(_PROGRAM)
    parser.add_argument("--prompt", action="append", required=True, help="may be repeated")
    parser.add_argument("--chat", action="store_true", help="prompts are a user's messages")
    parser.add_argument("--system", help="the system's message of a chat")
    parser.add_argument("--max-tokens", type=int, default=128)
    parser.add_argument("--temperature", type=float, default=1.0, help="0: the most likely token")
    parser.add_argument("--top-k", type=int, default=0, help="0 or -1: all")
    parser.add_argument("--top-p", type=float, default=1.0)
    parser.add_argument("--min-p", type=float, default=0.0)
    parser.add_argument("--seed", type=int, default=0, help="of the first prompt")
    parser.add_argument("--stop", action="append", default=[], help="a string; may be repeated")
    parser.add_argument("--batch-size", type=int, default=8, help="prompts decoded at once")
    return parser


if __name__ == "__main__":
    main()
