"""Where a run starts, and where it goes back to."""

from typing import Any, NamedTuple

from jax.sharding import Mesh

from kanana_jax import checkpoint
from kanana_jax.workdir import events
from kanana_jax.train import step


class Position(NamedTuple):
    """A point of a run: the state after `step` updates, and which data comes next.

    The next batch is number `step + skipped_batches`; going back leaves the bad ones out by
    raising the latter.
    """

    state: Any
    step: int = 0
    skipped_batches: int = 0
    rewinds: int = 0

    def notes(self, mesh: Mesh) -> dict[str, Any]:
        """What a checkpoint holds beside the state."""
        return {
            "skipped_batches": self.skipped_batches,
            "rewinds": self.rewinds,
            "mesh": dict(mesh.shape),
        }


def latest(
    saved: checkpoint.Checkpoints, steps: step.Steps, mesh: Mesh, seed: int, log: events.Events
) -> Position:
    """The newest usable checkpoint, or the beginning when none was ever made."""
    found = saved.restore_latest(steps.like)
    if found is None:
        return Position(steps.init(seed))
    if found.notes["mesh"] != dict(mesh.shape):
        log.report(
            "resharded",
            f"checkpoint {found.step} was made on mesh {found.notes['mesh']} and continues on "
            f"{dict(mesh.shape)}: sums are taken in another order, so from here on losses equal "
            "those of an unbroken run to rounding only",
        )
    return Position(found.state, found.step, found.notes["skipped_batches"], found.notes["rewinds"])


def rewind(before: Position, good: Position, trouble_step: int) -> Position:
    """`good`, the last good position, made to continue behind the data of `trouble_step`.

    `before` is where the steps that went wrong had started from.
    """
    # The step in trouble took batch trouble_step - 1 + before.skipped_batches; the next one is due.
    next_batch = trouble_step + before.skipped_batches
    return good._replace(skipped_batches=next_batch - good.step, rewinds=before.rewinds + 1)
