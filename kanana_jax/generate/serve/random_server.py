"""A speech server with random weights in a process of its own, for measuring its speed."""

import contextlib
import dataclasses
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from kanana_jax import config, model
from kanana_jax.data import tokenizer
from kanana_jax.errors import UserError
from kanana_jax.model import presets
from kanana_jax.speech import codec, mel, vocabulary
from kanana_jax.speech import folder as speech_folder
from kanana_jax.speech.codec import CodecConfig
from kanana_jax.weights import native

# As large as a published speech decoder of about a billion parameters, dense; all values are ours.
_BILLION = dataclasses.replace(
    presets.small(),
    hidden_size=2048,
    num_layers=16,
    num_dense_layers=16,
    num_heads=16,
    intermediate_size=8192,
    num_experts=0,
    num_experts_per_token=0,
    num_shared_experts=0,
    moe_intermediate_size=0,
)
SHAPES: dict[str, Callable[[], config.ModelConfig]] = {
    "tiny": lambda: dataclasses.replace(presets.tiny(), num_layers=1),  # to try the bench itself
    "small": presets.small,
    "billion": lambda: _BILLION,
}
_TEMPLATE = "{% for m in messages %}{{ m.role }}: {{ m.content }};{% endfor %}"
_PROMPT_TOKENS = 96  # more than the bench's texts have
_START_S, _END_S = 900.0, 30.0


@dataclasses.dataclass(frozen=True)
class Settings:
    shape: str
    num_rows: int
    width: int
    tokens_per_turn: int
    sound_s: float  # the longest answer
    dtype: str  # of activations and weights

    @property
    def length(self) -> int:
        seconds_per_token = mel.SAMPLES_PER_TOKEN / mel.SAMPLE_RATE
        return _PROMPT_TOKENS + round(self.sound_s / seconds_per_token)


@contextlib.contextmanager
def folder(settings: Settings) -> Iterator[Path]:
    """A temporary folder with random weights of a decoder and a codec.

    JAX computes on the CPU in this process from here on: the device is the server's.
    """
    jax.config.update("jax_platforms", "cpu")
    cfg_of_codec = CodecConfig()
    of_bytes = tokenizer.train_bpe([], vocab_size=258)  # and two special tokens
    spelling = vocabulary.with_codes(of_bytes.json, cfg_of_codec.num_codes)
    vocab_size = of_bytes.vocab_size + cfg_of_codec.num_codes
    cfg = dataclasses.replace(SHAPES[settings.shape](), vocab_size=vocab_size)
    with tempfile.TemporaryDirectory() as made:
        weights = jax.jit(lambda key: model.init(cfg, key))(jax.random.key(0))
        stored = jax.tree.map(lambda x: native.streamed(np.asarray(x)), native.stored(weights))
        with native.new_directory(Path(made) / "model") as temporary:
            native.write(temporary, native.Description(cfg, {}, settings.dtype), stored)
            (temporary / "tokenizer.json").write_text(spelling)
            (temporary / native.CHAT_TEMPLATE_NAME).write_text(_TEMPLATE)
        said = speech_folder.Speaker(
            cfg_of_codec, codec.init(cfg_of_codec, jax.random.key(1)), ("en-m1",)
        )
        (Path(made) / "speech").mkdir()
        speech_folder.write(Path(made) / "speech", said)
        yield Path(made)


@contextlib.contextmanager
def running(
    settings: Settings, made: Path, schedulings: Sequence[str]
) -> Iterator[dict[str, tuple[int, dict[str, Any]]]]:
    """By scheduling: (port, what is known of the server), while the servers run.

    They start together, which saves their users time, and do nothing until they are asked.
    UserError where one does not start.
    """
    began_s = time.monotonic()
    processes: dict[str, tuple[int, subprocess.Popen]] = {}
    try:
        for one in schedulings:
            port = _free_port()
            processes[one] = port, _start(settings, made, one, port)
        found = {}
        for one, (port, process) in processes.items():
            _wait(process, port, began_s + _START_S)
            found[one] = port, dataclasses.asdict(settings) | {"scheduling": one}
        yield found
    finally:
        for _, process in processes.values():
            process.terminate()
        for _, process in processes.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_END_S)
            process.kill()


def _start(settings: Settings, made: Path, scheduling: str, port: int) -> subprocess.Popen:
    flags = {
        "checkpoint": made / "model",
        "speech": made / "speech",
        "port": port,
        "batch-size": 1,
        "length": 64,
        "scheduling": scheduling,
        "streams": settings.num_rows,
        "streams-at-once": settings.width,
        "stream-length": settings.length,
        "tokens-per-turn": settings.tokens_per_turn,
    }
    command = [sys.executable, "-m", "kanana_jax.generate.serve"]
    command += [f"--{name}={value}" for name, value in flags.items()]
    # Several servers on one device must not each take most of its memory.
    return subprocess.Popen(command, env={"XLA_PYTHON_CLIENT_PREALLOCATE": "false"} | os.environ)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


def _wait(process: subprocess.Popen, port: int, end_s: float) -> None:
    while time.monotonic() < end_s:
        if process.poll() is not None:
            break
        with (
            contextlib.suppress(OSError, json.JSONDecodeError),
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as answer,
        ):
            json.load(answer)
            return
        time.sleep(0.2)
    raise UserError(f"the server did not start within {_START_S:g} s; its own lines say why")
