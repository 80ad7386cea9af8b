"""Serves a model: python -m kanana_jax.generate.serve --checkpoint=DIR --port=8000.

The interface is OpenAI's: /v1/models, /v1/completions, /v1/chat/completions, and with --speech=DIR
/v1/audio/speech; there are also /health, /metrics, /tokenize, /tokenizer_info and /detokenize. The
folder is from `kanana_jax.convert` or Hugging Face. SIGTERM or SIGINT ends the server when the
answers under way are done, SHUTDOWN_SECONDS at most. Exit code 2: the folder or a setting cannot be
used; 1: an engine has failed, and a supervisor should start the server again.
"""

import argparse
import signal
import socket
import sys

from kanana_jax import config, errors, extras, generate
from kanana_jax.config import paths
from kanana_jax.generate import command, decoder, serve
from kanana_jax.generate.serve import speech_command
from kanana_jax.speech import chats

with extras.needed("train", "serve"):
    import uvicorn

_PROGRAM = "kanana_jax.generate.serve"


def main(argv: list[str] | None = None) -> None:
    arguments = _parser().parse_args(argv)
    with errors.reported(_PROGRAM):
        server, workers = _make_server(arguments)
    # uvicorn raises a signal again after an orderly shutdown, when nothing is left to do.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    server.run()
    if any(one.has_failed for one in workers):
        sys.exit(1)


def _make_server(arguments: argparse.Namespace) -> tuple[uvicorn.Server, list[serve.Worker]]:
    folder = paths.local(arguments.checkpoint, "--checkpoint").resolve()
    model_name = arguments.model_name or folder.name
    _check(arguments, model_name)
    loaded = command.load(arguments)
    of_images, room = None, generate.Room()
    if loaded.cfg.vision is not None and arguments.image_patches:
        square = loaded.cfg.vision.merge_size**2
        of_images = serve.ImageLimits(
            max(arguments.image_patches // square, 1) * square, max_pixels=arguments.max_pixels
        )
        room = room._replace(image_patches=of_images.num_patches)
    of_sounds = None
    if loaded.cfg.audio is not None and arguments.max_sounds:
        chats.check(loaded.cfg.audio)
        of_sounds = serve.SoundLimits(arguments.max_sounds, arguments.sound_seconds)
        heard = of_sounds.room(loaded.cfg.audio)
        room = room._replace(sounds=heard.sounds, sound_frames=heard.sound_frames)
    engine = loaded.engine(
        num_rows=arguments.batch_size,
        length=arguments.length,
        tokens_per_step=arguments.tokens_per_step,
        room=room,
    )
    engine.warm_up()
    spoken = speech_command.opened(arguments, loaded, on_failure=lambda: end())
    limits = serve.Limits(
        model_name=model_name,
        num_rows=arguments.batch_size,
        length=arguments.length,
        max_waiting=arguments.max_waiting,
        max_body_bytes=arguments.max_body_bytes,
        api_key=arguments.api_key,
        origins=tuple(arguments.allow_origin),
        images=of_images,
        sounds=of_sounds,
    )

    def end() -> None:
        server.should_exit = True

    worker = serve.Worker(
        engine, num_rows=limits.num_rows, max_waiting=limits.max_waiting, on_failure=end
    )
    server = uvicorn.Server(
        uvicorn.Config(
            serve.make_app(loaded, worker, limits, spoken),
            host=arguments.host,
            port=arguments.port,
            access_log=False,
            timeout_graceful_shutdown=arguments.shutdown_seconds,
        )
    )
    return server, [worker] if spoken is None else [worker, spoken.worker]


def _check(arguments: argparse.Namespace, model_name: str) -> None:
    """Raises ConfigError before the model is read, which is slow."""
    decoder.check_sizes(
        **{
            "--batch-size": arguments.batch_size,
            "--length": arguments.length,
            "--tokens-per-step": arguments.tokens_per_step,
            "--max-body-bytes": arguments.max_body_bytes,
            "--max-pixels": arguments.max_pixels,
            "--sound-seconds": arguments.sound_seconds,
        }
    )
    speech_command.check(arguments)
    for name in ("max-waiting", "shutdown-seconds", "image-patches", "max-sounds"):
        value = getattr(arguments, name.replace("-", "_"))
        if value < 0:
            raise config.ConfigError(f"--{name} must not be negative, got {value}")
    if arguments.api_key is not None and not arguments.api_key.strip():
        raise config.ConfigError("--api-key must not be empty; leave it out to ask for none")
    if not model_name.isprintable():
        raise config.ConfigError(
            f"--model-name must be printable, got {model_name!a}; give another"
        )
    host, port = arguments.host, arguments.port
    try:
        if not 0 <= port < 2**16:  # which getaddrinfo would cut to 16 bits
            raise OverflowError("a port is a number of 16 bits")
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except (OSError, OverflowError) as error:
        raise config.ConfigError(
            f"--host={host} --port={port} cannot be listened on ({error}); choose others"
        ) from None


def _parser() -> argparse.ArgumentParser:
    parser = command.model_parser(_PROGRAM)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--model-name", help="default: the folder's")
    parser.add_argument("--batch-size", type=int, default=16, help="requests that run at a time")
    parser.add_argument(
        "--length", type=int, default=4096, help="tokens of a request, prompt and answer"
    )
    parser.add_argument("--max-waiting", type=int, default=1024, help="requests that may wait")
    parser.add_argument(
        "--tokens-per-step", type=int, default=4, help="drawn before the host looks at them"
    )
    parser.add_argument("--max-body-bytes", type=int, default=8 * 2**20, help="of a request")
    parser.add_argument(
        "--image-patches",
        type=int,
        default=4096,
        help="of a request's images together, where the model reads images; 0: none",
    )
    parser.add_argument("--max-pixels", type=int, default=2**24, help="of an image")
    parser.add_argument(
        "--max-sounds",
        type=int,
        default=4,
        help="of a request, where the model has an encoder of sounds; 0: none",
    )
    parser.add_argument("--sound-seconds", type=int, default=30, help="of each, at most")
    parser.add_argument("--api-key", help="that requests must have; default: none")
    parser.add_argument(
        "--allow-origin",
        action="append",
        default=[],
        help="of web pages that may ask, or *; may be repeated",
    )
    parser.add_argument("--shutdown-seconds", type=int, default=30)
    speech_command.add_flags(parser)
    return parser


if __name__ == "__main__":
    main()
