"""Serves a model: python -m kanana_jax.generate.serve --checkpoint=DIR --port=8000.

The interface is OpenAI's: /v1/models, /v1/completions, /v1/chat/completions. The folder is one of
`kanana_jax.convert` or a Hugging Face one. SIGTERM or SIGINT ends it when the answers under way are
done, SHUTDOWN_SECONDS at most. Exit code 2: the folder or a setting cannot be used.
"""

import argparse
import signal

from kanana_jax import extras, generate
from kanana_jax.generate import command, serve

with extras.needed("train", "serve"):
    import uvicorn


def main(argv: list[str] | None = None) -> None:
    arguments = _parser().parse_args(argv)
    with command.refusing():
        server = _make_server(arguments)
    # uvicorn raises a signal again once it has shut down in order; that was all we wanted.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    server.run()


def _make_server(arguments: argparse.Namespace) -> uvicorn.Server:
    if arguments.max_waiting < 0:
        raise ValueError(f"--max-waiting must not be negative, got {arguments.max_waiting}")
    loaded = command.load(arguments)
    engine = loaded.engine(
        num_rows=arguments.batch_size,
        length=arguments.length,
        tokens_per_step=arguments.tokens_per_step,
    )
    # Compiles, so that the first client does not wait for it.
    first = generate.Request(prompt=[0], max_tokens=min(8, arguments.length - 1))
    for _ in engine.run([first]):
        pass
    limits = serve.Limits(
        model_name=arguments.model_name or loaded.directory.resolve().name,
        num_rows=arguments.batch_size,
        length=arguments.length,
        max_waiting=arguments.max_waiting,
    )
    worker = serve.Worker(engine, num_rows=limits.num_rows, max_waiting=limits.max_waiting)
    return uvicorn.Server(
        uvicorn.Config(
            serve.make_app(loaded, worker, limits),
            host=arguments.host,
            port=arguments.port,
            access_log=False,
            timeout_graceful_shutdown=arguments.shutdown_seconds,
        )
    )


def _parser() -> argparse.ArgumentParser:
    parser = command.model_parser("kanana_jax.generate.serve")
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
    parser.add_argument("--shutdown-seconds", type=int, default=30)
    return parser


if __name__ == "__main__":
    main()
