"""What a command says when a package that it needs is not installed."""

import contextlib
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def needed(*names: str) -> Iterator[None]:
    """Wraps imports that need the extras `names` of this package.

    A missing package raises ModuleNotFoundError with the command that installs it; where
    `python -m kanana_jax...` was started, that one line ends the process with exit code 2.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing in ("", "kanana_jax", "pallas_kernels") or "pip install" in str(error):
            raise
        line = (
            f"{missing} is not installed, which this part of kanana_jax needs; "
            f"pip install 'kanana_jax[{','.join(names)}]' (BUILD.md, Install)"
        )
        if _is_command():
            print(f"kanana_jax: {line}", file=sys.stderr)
            sys.exit(2)
        raise ModuleNotFoundError(line, name=missing) from error


def _is_command() -> bool:
    main = getattr(sys.modules["__main__"], "__spec__", None)
    # While python -m still imports the packages around a module, its name is not known.
    return sys.argv[:1] == ["-m"] or (main is not None and main.name.startswith("kanana_jax."))
