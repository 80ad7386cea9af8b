"""How many streams a speech server carries: python -m kanana_jax.generate.serve.bench ...

    --url=http://127.0.0.1:8000         a running server; or
    --random=small                      a server with random weights of this shape is started for
                                        each --scheduling, then ended; what it says is noise

Writes bench.json and bench.png into --out: for each number of listeners the time to first audio
(p50, p95), the real-time factor, underruns, and tokens held back before there is sound. Streams per
device is the largest number of listeners at which none waited for sound after its first.
"""

import argparse
import asyncio
import contextlib
import json
import sys
import urllib.parse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from kanana_jax import config, errors, extras
from kanana_jax.generate.streams import playback, scheduling

with extras.needed("train", "serve"):
    from kanana_jax.generate.serve import bench_picture, listeners, random_server

_PROGRAM = "kanana_jax.generate.serve.bench"
_TEXTS = (
    "the red fox sat on the old bridge and waited for rain",
    "seven boats came home before the night was over",
    "read the last two lines of the letter once more",
)


def main(argv: list[str] | None = None) -> None:
    arguments = _parser().parse_args(argv)
    with errors.reported(_PROGRAM):
        counts, out = _counts(arguments), Path(arguments.out)
        out.mkdir(parents=True, exist_ok=True)
        found: dict[str, Any] = {"seconds": arguments.seconds, "arms": {}}
        with _servers(arguments) as servers:
            for arm, (address, about) in servers.items():
                levels = [_level(arguments, *address, number) for number in counts]
                found["arms"][arm] = {"server": about, "levels": levels}
                print(_table(arm, levels), flush=True)
        (out / "bench.json").write_text(json.dumps(found, indent=1) + "\n")
        bench_picture.write(found, out / "bench.png")
        print(f"wrote {out / 'bench.json'} and {out / 'bench.png'}")


def streams_per_device(levels: Sequence[dict[str, Any]]) -> int:
    """The largest number of listeners up to which nobody waited; 0 where even a single one did."""
    most = 0
    for level in sorted(levels, key=lambda one: one["listeners"]):
        if level["underruns"] or level["rtf"] >= 1:
            break
        most = level["listeners"]
    return most


def _level(arguments: argparse.Namespace, host: str, port: int, number: int) -> dict[str, Any]:
    answers = asyncio.run(
        listeners.listen(
            host,
            port,
            _TEXTS,
            arguments.voice,
            num_listeners=number,
            seconds=arguments.seconds,
        )
    )
    try:
        return playback.summary(answers, number)
    except ValueError as error:
        raise errors.UserError(f"with {number} listeners {error}; train the model first") from None


def _table(arm: str, levels: Sequence[dict[str, Any]]) -> str:
    lines = [f"{arm}: {streams_per_device(levels)} streams without an underrun"]
    lines.append("listeners requests silent TTFA p50   p95 (ms)    RTF underruns tokens held back")
    for one in levels:
        lines.append(
            f"{one['listeners']:9d} {one['requests']:8d} {one['silent']:6d} "
            f"{1e3 * one['ttfa_p50_s']:8.1f} {1e3 * one['ttfa_p95_s']:10.1f} {one['rtf']:6.3f} "
            f"{one['underruns']:9d} {one['held_back_tokens']:18.1f}"
        )
    return "\n".join(lines)


def _counts(arguments: argparse.Namespace) -> list[int]:
    parts = arguments.listeners.split(",")
    if not all(one.isdecimal() and int(one) > 0 for one in parts):
        raise config.ConfigError(
            f"--listeners must be numbers like 1,2,4, got {arguments.listeners!r}"
        )
    if arguments.seconds <= 0:
        raise config.ConfigError(f"--seconds must be positive, got {arguments.seconds:g}")
    return sorted(set(map(int, parts)))


@contextlib.contextmanager
def _servers(
    arguments: argparse.Namespace,
) -> Iterator[dict[str, tuple[tuple[str, int], dict[str, Any]]]]:
    """For each arm, by name: where its server listens, and what is known of it."""
    if arguments.url is not None:
        parsed = urllib.parse.urlsplit(arguments.url)
        if parsed.scheme != "http" or parsed.hostname is None or parsed.port is None:
            raise config.ConfigError(f"--url must be http://HOST:PORT, got {arguments.url!r}")
        yield {"server": ((parsed.hostname, parsed.port), {})}
        return
    arms = arguments.scheduling.split(",")
    if not set(arms) <= set(scheduling.POLICIES):
        names = ", ".join(scheduling.POLICIES)
        raise config.ConfigError(f"--scheduling must be some of {names}, got {arms}")
    settings = random_server.Settings(
        shape=arguments.random,
        num_rows=arguments.streams,
        width=arguments.streams_at_once,
        tokens_per_turn=arguments.tokens_per_turn,
        sound_s=arguments.sound_seconds,
        dtype=arguments.dtype,
    )
    with (
        random_server.folder(settings) as made,
        random_server.running(settings, made, arms) as running,
    ):
        yield {arm: (("127.0.0.1", port), about) for arm, (port, about) in running.items()}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"python -m {_PROGRAM}", allow_abbrev=False)
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--url", help="of a server with --speech")
    where.add_argument("--random", choices=sorted(random_server.SHAPES))
    parser.add_argument("--scheduling", default=",".join(scheduling.POLICIES))
    parser.add_argument("--listeners", default="1,2,4,8,16,32,64")
    parser.add_argument("--seconds", type=float, default=8.0, help="of each number of listeners")
    parser.add_argument("--voice", default="en-m1")
    parser.add_argument("--streams", type=int, default=64)
    parser.add_argument("--streams-at-once", type=int, default=16)
    parser.add_argument("--tokens-per-turn", type=int, default=4)
    parser.add_argument("--sound-seconds", type=float, default=5.0, help="most of an answer")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="bfloat16")
    parser.add_argument("--out", required=True, help="a folder")
    return parser


if __name__ == "__main__":
    main()
    sys.stdout.flush()
