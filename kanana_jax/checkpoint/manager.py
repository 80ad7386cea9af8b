"""Asynchronous Orbax checkpoints of the whole train state."""

from pathlib import Path
from typing import Any

import orbax.checkpoint as ocp


class Checkpoints:
    """The numbered checkpoints of one run; a save returns before the bytes are on disk.

    Use as a context manager: leaving it waits for the save in flight.
    """

    def __init__(self, directory: Path, *, keep: int):
        # Orbax leaves the temporary folder of a killed save behind unless told otherwise.
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep, create=True, cleanup_tmp_directories=True
        )
        self._manager = ocp.CheckpointManager(Path(directory).absolute(), options=options)

    def save(self, step: int, state: Any) -> None:
        self._manager.save(step, args=ocp.args.StandardSave(state))

    def latest_step(self) -> int | None:
        return self._manager.latest_step()

    def restore(self, step: int, like: Any) -> Any:
        """Restores step `step` with the shapes, dtypes and shardings of `like`."""
        return self._manager.restore(step, args=ocp.args.StandardRestore(like))

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._manager.wait_until_finished()
        self._manager.close()
