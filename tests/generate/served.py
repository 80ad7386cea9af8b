"""A tiny model's folder, and a server of it in a thread of the tests' process."""

import asyncio
import socket
import threading
import time

import http_client
import jax
import numpy as np
import small_decoder
import uvicorn

from kanana_jax.generate import serve
from kanana_jax.weights import native

NUM_ROWS, LENGTH = 8, 64
GREEDY = {"prompt": "abc", "temperature": 0, "max_tokens": 12}
TEMPLATE = "{% for m in messages %}{{ m.role }}:{{ m.content }};{% endfor %}"


def text_of(answer, place=0):
    return answer.body["choices"][place]["text"]


def write_model(folder, template=TEMPLATE, shape=small_decoder.SHALLOW, extra=None):
    """A model of bytes with a chat template."""
    weights = small_decoder.random_weights(shape)
    stored = jax.tree.map(lambda x: native.streamed(np.asarray(x)), native.stored(weights))
    with native.new_directory(folder) as temporary:
        native.write(temporary, native.Description(shape, extra or {}, "float32"), stored)
        (temporary / "chat_template.jinja").write_text(template)


class Served:
    """A server in a thread, and its parts to look into."""

    def __init__(
        self,
        loaded,
        *,
        num_rows=NUM_ROWS,
        length=LENGTH,
        max_waiting=2000,
        engine=None,
        spoken=None,
        **limits,
    ):
        self.engine = engine or loaded.engine(num_rows=num_rows, length=length)
        self.worker = serve.Worker(self.engine, num_rows=num_rows, max_waiting=max_waiting)
        limits = serve.Limits(
            model_name="small",
            num_rows=num_rows,
            length=length,
            max_waiting=max_waiting,
            **limits,
        )
        app = serve.make_app(loaded, self.worker, limits, spoken)
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=2048)
        self.port = self._socket.getsockname()[1]
        settings = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=20)
        self._server = uvicorn.Server(settings)
        self._thread = threading.Thread(target=self._server.run, args=([self._socket],))

    def __enter__(self):
        self._thread.start()
        while not self._server.started:
            assert self._thread.is_alive()
            time.sleep(0.01)
        return self

    def __exit__(self, *_):
        self._server.should_exit = True
        self._thread.join(60)
        assert not self._thread.is_alive()

    def fetch(self, path, body=None, **options):
        return asyncio.run(http_client.fetch(self.port, path, body, **options))

    def wait_until_idle(self, seconds=60):
        end = time.monotonic() + seconds
        while self.worker.num_open or not self.engine.is_idle:
            assert time.monotonic() < end, (self.worker.num_open, self.engine.num_running)
            time.sleep(0.01)
