"""A speech server of random weights in a process of its own, for measuring how fast it is."""

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
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from kanana_jax import config, model
from kanana_jax.data import tokenizer
from kanana_jax.errors import UserError
from kanana_jax.model import presets
from kanana_jax.speech import codec, detokeniser, mel, vocabulary
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
_START_S, _END_S = 400.0, 30.0


@dataclasses.dataclass(frozen=True)
class Settings:
    shape: str
    num_rows: int
    width: int
    tokens_per_turn: int
    sound_s: float  # the longest answer

    @property
    def length(self) -> int:
        seconds_per_token = detokeniser.SAMPLES_PER_TOKEN / mel.SAMPLE_RATE
        return _PROMPT_TOKENS + round(self.sound_s / seconds_per_token)


@contextlib.contextmanager
def folder(settings: Settings) -> Iterator[Path]:
    """A temporary folder with random weights of a decoder and a codec."""
    cpu = jax.devices("cpu")[0]
    cfg_of_codec = CodecConfig()
    of_bytes = tokenizer.train_bpe([], vocab_size=258)  # and two special tokens
    spelling = vocabulary.with_codes(of_bytes.json, cfg_of_codec.num_codes)
    vocab_size = of_bytes.vocab_size + cfg_of_codec.num_codes
    cfg = dataclasses.replace(SHAPES[settings.shape](), vocab_size=vocab_size)
    with tempfile.TemporaryDirectory() as made, jax.default_device(cpu):
        weights = jax.jit(lambda key: model.init(cfg, key))(jax.random.key(0))
        stored = jax.tree.map(lambda x: native.streamed(np.asarray(x)), native.stored(weights))
        with native.new_directory(Path(made) / "model") as temporary:
            dtype = "float32" if jax.default_backend() == "cpu" else "bfloat16"
            native.write(temporary, native.Description(cfg, {}, dtype), stored)
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
    settings: Settings, made: Path, arm: str, about: dict[str, Any]
) -> Iterator[tuple[str, int, dict[str, Any]]]:
    """(host, port, what is known of it) while it runs. UserError where it does not start."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    flags = {
        "checkpoint": made / "model",
        "speech": made / "speech",
        "port": port,
        "batch-size": 1,
        "length": 64,
        "scheduling": arm,
        "streams": settings.num_rows,
        "streams-at-once": settings.width,
        "stream-length": settings.length,
        "tokens-per-turn": settings.tokens_per_turn,
    }
    command = [sys.executable, "-m", "kanana_jax.generate.serve"]
    command += [f"--{name}={value}" for name, value in flags.items()]
    cached = {"JAX_COMPILATION_CACHE_DIR": str(made / "compiled")} | os.environ
    began_s = time.monotonic()
    process = subprocess.Popen(command, env=cached)
    try:
        _wait(process, port)
        yield "127.0.0.1", port, about | {"start_s": round(time.monotonic() - began_s, 1)}
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_END_S)
        process.kill()


def _wait(process: subprocess.Popen, port: int) -> None:
    end_s = time.monotonic() + _START_S
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
