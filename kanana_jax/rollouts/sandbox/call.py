"""What a sandbox is asked to do, within which limits, and what comes of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from kanana_jax.config import ConfigError

Status = Literal["ok", "error", "timeout", "killed"]


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits of one call. Exceeding one ends the call and nothing else."""

    wall_s: float = 2.0
    cpu_s: int = 1
    memory_bytes: int = 512 * 2**20  # of address space, the interpreter's included
    argument_bytes: int = 2**20  # as JSON
    result_bytes: int = 2**20  # as JSON

    def __post_init__(self):
        values = (
            self.wall_s,
            self.cpu_s,
            self.memory_bytes,
            self.argument_bytes,
            self.result_bytes,
        )
        if min(values) <= 0 or not isinstance(self.cpu_s, int):
            raise ConfigError(f"expected limits above 0 and whole seconds in cpu_s, got {self}")


@dataclass(frozen=True, kw_only=True)
class Call:
    """A function, as "package.module:function", and its one argument, a JSON value.

    A call can open no file, so `modules` names what else it imports: installed packages.
    """

    function: str
    argument: Any
    modules: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a call gave.

    "ok": `value` is what the function returned. "error": it raised, or its argument or result was
    no JSON or too large. "timeout": it took too long. "killed": its process ended otherwise. Only
    "ok" says anything about what was graded.
    """

    status: Status
    value: Any = None
    message: str = ""


class Runner(Protocol):
    """Whatever runs calls; `Pool` does."""

    def run(self, calls: Sequence[Call], /) -> list[Outcome]: ...
