"""Several processes as one program: how they find each other, and how they agree.

    JAX_COORDINATOR_ADDRESS    host:port of process 0, which opens it
    JAX_NUM_PROCESSES          how many there are; 1 is a program of its own wherever it runs
    JAX_PROCESS_ID             which of them this is, from 0

A Slurm step, mpirun and a TPU slice give all three. Every process calls everything below `join` at
the same point of its program, from its main thread; the others wait for one that does not come.
"""

import importlib.util
import itertools
import json
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax._src import distributed
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from kanana_jax import config

# A process that dies ends the others long before; this is for one that hangs.
_WAIT_S = 3600
_ROUNDS = itertools.count()  # of `everyones`, which all processes count alike

ADDRESS, COUNT, INDEX = "JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"


def join(environ: Mapping[str, str]) -> None:
    """Joins the other processes that `environ` tells of; call it before JAX looks at the devices.

    Raises ConfigError when the variables do not fit together or the others do not come within
    five minutes.
    """
    address = environ.get(ADDRESS)
    count, index = (_whole_number(environ, name) for name in (COUNT, INDEX))
    is_launched = _is_launched(environ)
    if count == 1 or (not address and not is_launched and not _may_be_a_tpu_slice(environ)):
        if count != 1 and (count, index) != (None, None):
            raise config.ConfigError(f"{COUNT} and {INDEX} need {ADDRESS}=host:port of process 0")
        return
    if address and not is_launched and None in (count, index):
        raise config.ConfigError(
            f"{ADDRESS} is set but not both of {COUNT} and {INDEX}, got {count} and {index}; give "
            f"every process the same address and number and its own index, or {COUNT}=1"
        )
    if count is not None and index is not None and not 0 <= index < count:
        raise config.ConfigError(
            f"{INDEX} must lie in [0, {COUNT} = {count}), got {index}; start every process with "
            f"the same {COUNT} and its own {INDEX}"
        )
    # Its handler would take SIGTERM from ours, which stops all processes at one step.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(address, count, index)
    except (ValueError, RuntimeError, OSError) as error:
        if not address and not is_launched and "should be defined" in str(error):
            return  # libtpu is installed, but this is no TPU
        raise config.ConfigError(
            f"the processes do not find each other ({str(error).splitlines()[0]}); check that "
            f"process 0 runs and that all reach its address, or set {COUNT}=1 to train on this "
            "machine alone"
        ) from error


def expect_devices() -> None:
    """Raises ConfigError when JAX finds no device of the platform that it was told to use."""
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:  # jax asserts that some platform was tried
        wanted = jax.config.jax_platforms or "any platform"  # pyright: ignore
        reason = (str(error).strip() or "none is here").splitlines()[0]
        raise config.ConfigError(
            f"JAX finds no device of {wanted} ({reason}); set JAX_PLATFORMS=cpu to run without "
            "an accelerator, or install its support (BUILD.md, Install)"
        ) from error


def _whole_number(environ: Mapping[str, str], name: str) -> int | None:
    text = environ.get(name)
    if text is None:
        return None
    if not text.isdecimal():
        raise config.ConfigError(f"{name} must be a whole number, got {text!r}")
    return int(text)


def _is_launched(environ: Mapping[str, str]) -> bool:
    """Whether srun or mpirun started several of these; the node list is set only within a step."""
    slurm = "SLURM_STEP_NODELIST" in environ and (_whole_number(environ, "SLURM_NTASKS") or 1) > 1
    return slurm or (_whole_number(environ, "OMPI_COMM_WORLD_SIZE") or 1) > 1


def _may_be_a_tpu_slice(environ: Mapping[str, str]) -> bool:
    platforms = environ.get("JAX_PLATFORMS", "tpu").split(",")
    return "tpu" in platforms and importlib.util.find_spec("libtpu") is not None


def is_joined() -> bool:
    """Whether `join` joined other processes, or one alone on a TPU VM."""
    return jax.distributed.is_initialized()


def is_first() -> bool:
    """Whether this is the process that writes what is written once."""
    return jax.process_index() == 0


def everyones(value: Any) -> list[Any]:
    """What every process passed, in the order of the processes; `value` is JSON.

    They go through process 0 and not a collective, so it does not matter how long the others take,
    for example to compile.
    """
    if jax.process_count() == 1:
        return [value]
    number = next(_ROUNDS)
    told = gather_on_first(f"everyones/{number}", json.dumps(value))
    store = _store()
    if is_first():
        store.key_value_set(f"everyones/{number}/all", json.dumps(told))
        if number:  # whoever came to this round has read the one before
            store.key_value_delete(f"everyones/{number - 1}/all")
    answer = store.blocking_key_value_get(f"everyones/{number}/all", _WAIT_S * 1000)
    return [json.loads(text) for text in json.loads(answer)]


def gather_on_first(key: str, text: str) -> list[str]:
    """Everyone's `text`, which is not empty, on process 0, and nothing on the others.

    May be called from any thread; a key is used once.
    """
    names = [f"{key}/{process}" for process in range(jax.process_count())]
    if not is_first():
        _store().key_value_set(names[jax.process_index()], text)
        return []
    told = [text]
    for name in names[1:]:
        told.append(_store().blocking_key_value_get(name, _WAIT_S * 1000))
        _store().key_value_delete(name)
    return told


def _store() -> Any:
    # Private to jax, which has no public way to it; Orbax takes it here too.
    return distributed.global_state.client


def together(fn: Callable[[], Any]) -> Any:
    """Calls fn() on every process and returns its result if none raised.

    Raises what fn did here, and ConfigError when it raised on another process only.
    """
    result, error = None, None
    try:
        result = fn()
    except Exception as raised:
        error = raised
    lines = everyones(error and (str(error).strip() or repr(error)).splitlines()[0])
    if error is not None:
        raise error
    for index, line in enumerate(lines):
        if line is not None:
            raise config.ConfigError(f"process {index} of {len(lines)}: {line}")
    return result


def on_first(fn: Callable[[], Any]) -> Any:
    """Calls fn() on process 0 and returns its result there, None elsewhere.

    Errors as in `together`.
    """
    return together(lambda: fn() if is_first() else None)


def first_then_others(fn: Callable[[], Any]) -> Any:
    """Calls fn() on process 0, and on the others when that is done; errors as in `together`."""
    found = on_first(fn)
    others = together(lambda: None if is_first() else fn())
    return found if is_first() else others


class AnyProcess:
    """Whether a flag is set on any process, asked at every step.

    With several processes the answer is that of the previous call: what was sent then has arrived,
    so asking does not hold up the device.
    """

    def __init__(self):
        if jax.process_count() > 1:
            mesh = Mesh(np.array(jax.devices()), ("devices",))
            self._spread = NamedSharding(mesh, P("devices"))
            self._max = jax.jit(jnp.max, out_shardings=NamedSharding(mesh, P()))
        self._sent: jax.Array | None = None

    def __call__(self, flag: bool) -> bool:
        if jax.process_count() == 1:
            return flag
        before, mine = self._sent, np.array([flag], np.int32)
        shape = (jax.device_count(),)
        self._sent = self._max(
            jax.make_array_from_callback(shape, self._spread, lambda index: mine)
        )
        return before is not None and bool(before)
