"""Compiling the steps of several runs while earlier ones train."""

import concurrent.futures
import contextlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import jax
from jax.experimental.compilation_cache import compilation_cache
from jax.sharding import Mesh

from kanana_jax import config, parallel
from kanana_jax.train import step_functions
from kanana_jax.train.step_config import StepConfig

Key = tuple[StepConfig, Mesh]


def expect_able(label: str, cfg: StepConfig, mesh: config.MeshConfig) -> None:
    """Raises ConfigError when an op of the train step cannot run on these devices."""
    try:
        step_functions.build(cfg, parallel.make_mesh(mesh)).trace()
    except (NotImplementedError, ValueError) as error:
        reason = (str(error).strip() or repr(error)).splitlines()[0]
        raise config.ConfigError(f"{label or 'this'} cannot be trained here: {reason}") from error


@contextlib.contextmanager
def ahead(
    needed: Sequence[Key],
) -> Iterator[Callable[[StepConfig, Mesh], tuple[step_functions.Steps, float]]]:
    """Compiles every step once, in threads; yields a function that gives one when it is ready.

    A step that is not in `needed` is compiled where it is first called. The function also returns
    the seconds that it had to wait. One step compiles at a time for every four cores: compilation
    keeps more than one core busy.
    """

    def compile(cfg: StepConfig, mesh: Mesh) -> step_functions.Steps:
        steps = step_functions.build(cfg, mesh)
        steps.compile()
        return steps

    pool = concurrent.futures.ThreadPoolExecutor(max(1, (os.cpu_count() or 1) // 4))
    try:
        compiled = {key: pool.submit(compile, *key) for key in dict.fromkeys(needed)}

        def wait(cfg: StepConfig, mesh: Mesh) -> tuple[step_functions.Steps, float]:
            begin_s = time.monotonic()
            is_needed = (cfg, mesh) in compiled
            made = compiled[cfg, mesh].result() if is_needed else step_functions.build(cfg, mesh)
            return made, time.monotonic() - begin_s

        yield wait
    finally:
        pool.shutdown(cancel_futures=True)


def keep(folder: Path) -> None:
    """Later processes use what this one compiles: autotuned anew, they could round differently."""
    folder = Path(jax.config.jax_compilation_cache_dir or folder)  # pyright: ignore
    jax.config.update("jax_compilation_cache_dir", str(folder.absolute()))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    compilation_cache.reset_cache()  # the process may have compiled before
