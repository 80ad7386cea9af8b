"""Fits scaling laws: python -m kanana_jax.laws COMMAND --help.

Exit code 2: the runs cannot answer what was asked; one line says why.
"""

import argparse

from kanana_jax import errors, extras

_PROGRAM = "kanana_jax.laws"

with extras.needed("train"):
    from kanana_jax.laws import recover_command, transfer_command


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog=f"python -m {_PROGRAM}", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    transfer_command.add(commands)
    recover_command.add(commands)
    arguments = parser.parse_args(argv)
    with errors.reported(_PROGRAM):
        arguments.run(arguments)


if __name__ == "__main__":
    main()
