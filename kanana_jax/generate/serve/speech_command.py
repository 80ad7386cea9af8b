"""The server's flags for speech, and what they open."""

import argparse
from collections.abc import Callable
from pathlib import Path

from kanana_jax.config import paths
from kanana_jax.generate.load import Loaded
from kanana_jax.generate.serve.speech import Spoken
from kanana_jax.generate.serve.worker import Worker
from kanana_jax.generate.streams import scheduling
from kanana_jax.generate.streams.engine import Shape, StreamEngine
from kanana_jax.speech import folder, vocabulary


def add_flags(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("speech")
    group.add_argument("--speech", help="a folder with speech.json: the server speaks")
    group.add_argument("--streams", type=int, default=64, help="that have a row of the cache")
    group.add_argument("--streams-at-once", type=int, default=16, help="that draw in a turn")
    group.add_argument("--stream-length", type=int, default=1024, help="tokens: text and speech")
    group.add_argument("--tokens-per-turn", type=int, default=4, help="of speech, 40 ms each")
    group.add_argument("--scheduling", choices=sorted(scheduling.POLICIES), default="slack")


def check(arguments: argparse.Namespace) -> None:
    """Raises ConfigError before the model is read, which is slow."""
    _shape(arguments)
    if arguments.speech is not None:
        paths.local(arguments.speech, "--speech")


def opened(
    arguments: argparse.Namespace, loaded: Loaded, *, on_failure: Callable[[], None]
) -> Spoken | None:
    """A stream engine ready for its first stream; None without --speech."""
    if arguments.speech is None:
        return None
    speaker = folder.read(Path(paths.local(arguments.speech, "--speech")))
    ends = [*loaded.eos_ids, None]
    of_model = vocabulary.of(loaded.tokenizer.token_id, speaker.cfg.num_codes, ends[0])
    shape = _shape(arguments)
    engine = StreamEngine(
        loaded.cfg,
        loaded.execution,
        loaded.weights,
        speaker,
        of_model,
        shape=shape,
        policy=scheduling.POLICIES[arguments.scheduling],
        mesh=loaded.mesh,
    )
    engine.warm_up()
    worker = Worker(
        engine,
        num_rows=shape.num_rows,
        max_waiting=arguments.max_waiting,
        on_failure=on_failure,
    )
    return Spoken(speaker, worker, shape.length)


def _shape(arguments: argparse.Namespace) -> Shape:
    return Shape(
        num_rows=arguments.streams,
        width=arguments.streams_at_once,
        length=arguments.stream_length,
        tokens_per_turn=arguments.tokens_per_turn,
    )
