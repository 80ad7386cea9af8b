"""Runs a program that a model wrote, in the process that calls it, and returns what it prints.

That process must be a child of the sandbox in which no file can be opened.
"""

import contextlib
import importlib
import io
import sys

from kanana_jax.rollouts.sandbox import guards

# A program has these, as it can open no file to import others.
_MODULES = (
    "bisect", "collections", "datetime", "decimal", "fractions", "functools", "heapq", "itertools",
    "json", "math", "random", "re", "statistics", "string",
)  # fmt: skip
for _name in _MODULES:
    importlib.import_module(_name)

_MOST_PRINTED = 1000


class _Printed(io.StringIO):
    def write(self, text: str, /) -> int:
        if self.tell() + len(text) > _MOST_PRINTED:
            raise OSError(f"more than {_MOST_PRINTED} characters printed")
        return super().write(text)


def run(code: str) -> str:
    """What the program prints; for an expression, its value; "error: " and why if it fails."""
    if not guards.refuses_files():
        raise RuntimeError(
            "expected a child of a sandbox with a filter of system calls (pool.guards has "
            '"files"), got a process that can open files; run programs through sandbox.Pool'
        )
    printed, said = _Printed(), ""
    try:
        with contextlib.redirect_stdout(printed):
            _execute(code)
    except SystemExit:
        pass
    except BaseException as error:
        said = f"error: {_said(error)}"
    return f"{printed.getvalue().strip()}\n{said}".strip()


def _execute(code: str) -> None:
    names = {"__name__": "__main__"}
    try:
        expression = compile(code.strip(), "<program>", "eval")
    except SyntaxError:
        exec(compile(code, "<program>", "exec"), names)
        return
    value = eval(expression, names)
    if value is not None:
        print(value, file=sys.stdout)


def _said(error: BaseException) -> str:
    try:
        return f"{type(error).__name__}: {error}"[:200]
    except BaseException:
        return type(error).__name__
