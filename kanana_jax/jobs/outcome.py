"""How a training run ended, read off its metrics file so that a resumed run says the same."""

import numpy as np
from jaxtyping import Float

from kanana_jax.report import metrics
from kanana_jax.train import fit
from kanana_jax.workdir import Run, Workdir, storage
from kanana_jax.workdir.clock import OVERHEADS, PREFIX

_WINDOW = 10  # losses over which a run's start and end are judged
_MEASURED = ("heldout_", "round_")  # prefixes of the metrics whose last value is kept
_SPEEDS = ("tokens_per_second", "model_tflops_per_second", "mfu")


def write(folder: Workdir, ended: fit.Outcome, one: Run, corpus: str) -> None:
    """Writes the result of a run that ended; `corpus` is the fingerprint of its data.

    Raises StorageError when the last checkpoint is missing. A run that took over the last
    checkpoint of another machine has no metrics to sum up.
    """
    cfg = one.config
    diverged_step = ended.step if ended.status == "diverged" else None
    if diverged_step is None:
        saved = folder.checkpoints.steps()
        storage.expect_last_checkpoint(folder.directory, saved, cfg.train.num_steps)
    columns = metrics.read_metrics(folder.directory / metrics.METRICS_NAME)
    losses_N = columns["loss"].values_N if "loss" in columns else np.zeros(0)
    if cfg.guard.enabled and np.any(np.isfinite(losses_N)):
        losses_N = losses_N[np.isfinite(losses_N)]  # steps with other losses changed nothing
    # Each round has data of its own, so its losses are above or below another round's.
    has_rounds = any(name.startswith("round_") for name in columns)
    if has_rounds:
        is_lost = not np.all(np.isfinite(losses_N[-_WINDOW:]))
    else:
        is_lost = is_diverged(losses_N, cfg.model.vocab_size)
    if diverged_step is None and is_lost:
        diverged_step = cfg.train.num_steps
    values: dict[str, float | str | None] = {
        "initial_loss": float(losses_N[0]) if losses_N.size else None,
        "final_loss": float(np.mean(losses_N[-_WINDOW:])) if losses_N.size else None,
        "heldout_text": f"{corpus}, {cfg.train.eval_batches * cfg.data.batch_size} sequences of "
        f"{cfg.data.seq_len}",
    }
    for name, series in columns.items():
        if name.startswith(_MEASURED) and series.values_N.ndim == 1:
            values[name] = float(series.values_N[-1])
        elif name in _SPEEDS:
            values[name] = float(np.median(series.values_N))
        elif name in ("goodput", *(PREFIX + one for one in OVERHEADS)):
            values[name] = float(series.values_N[-1])
    status = "ok" if diverged_step is None else "diverged"
    seconds = float(columns["seconds"].values_N[-1]) if "seconds" in columns else None
    folder.finish(status, values, seconds=seconds, diverged_step=diverged_step)


def is_diverged(losses_N: Float[np.ndarray, "N"], vocab_size: int) -> bool:
    """Whether training ended well above its start, by more than batches differ.

    That is: one of the last 10 losses is not finite; or each of them exceeds each of the first 10,
    and their mean by a quarter; or, as when training broke within the first 10 steps, their median
    is twice the first loss and twice the loss of guessing tokens evenly. A flat loss is neither,
    whichever batch came first.
    """
    if not losses_N.size:
        return False
    first, last = losses_N[:_WINDOW], losses_N[-_WINDOW:]
    if not np.all(np.isfinite(last)):
        return True
    has_risen = last.min() > first.max() and last.mean() > 1.25 * first.mean()
    is_lost = np.median(last) > 2 * max(losses_N[0], np.log(vocab_size))
    return bool(is_lost or (has_risen and losses_N.size >= 2 * _WINDOW))
