"""Several processes as one program."""

import jax

from kanana_jax import config


def join(coordinator: str | None, num_processes: int, process_id: int) -> None:
    """Joins the other processes; call it before anything looks at the devices.

    `coordinator` is host:port of process 0; "auto" asks the TPU slice or Slurm for all three; None
    is a single process. Raises ConfigError when the numbers do not fit.
    """
    if coordinator is None:
        return
    if coordinator == "auto":
        jax.distributed.initialize()
        return
    if not 0 <= process_id < num_processes:
        raise config.ConfigError(
            f"--process_id must lie in [0, --num_processes = {num_processes}), got {process_id}; "
            "start every process with the same --num_processes and its own --process_id"
        )
    jax.distributed.initialize(coordinator, num_processes, process_id)
