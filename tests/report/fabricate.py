"""Made-up runs as training leaves them, and the record of how they were made.

They look like a stress sweep: growth without a clip, a plateau with one.
"""

import json
import math
import zlib
from pathlib import Path

import numpy as np

from kanana_jax.report import metrics, results
from kanana_jax.report.results import Run

LAYERS, HEADS, EXPERTS = 3, 4, 8
SEQUENCES = 64
ARMS = {  # name: optimizer
    "AdamW": "adamw",
    "Muon NS": "muon",
    "Muon PE": "muon",
    "MuonClip": "muonclip",
}


def run(
    directory: Path,
    *,
    arm: str = "Muon NS",
    lr: float = 0.01,
    seed: int = 0,
    peak: float = 20.0,
    tail: float | None = None,
    bpb: float = 2.7,
    stderr: float = 0.005,
    spread: float = 0.01,
    diverged_step: int | None = None,
    num_steps: int = 40,
    tau: float = 30.0,
    optimizer: str | None = None,
    axes: dict | None = None,
    heldout_text: str = "",
    num_sources: int = 1,
    max_vio: float = 0.6,
    decay_steps: int = 0,
    noise: float = 0.1,
    before_decay: float = 0.0,
    extra: dict | None = None,
) -> Run:
    """A run whose max logit rises to `peak` and ends at `tail`, with its files.

    Held-out losses differ between sequences, in the same way in all runs. To that each run adds its
    own noise, with the standard deviation `spread` over sequences; at 0 no sequences are recorded.
    `axes` are by default arm, learning rate and seed. `max_vio` is the mean of MaxVio over layers
    in the last third, `noise` that of the update's orthogonality error. Before its last
    `decay_steps` steps a run has `before_decay` more held-out loss. The last step has `extra`.
    """
    directory = directory / f"{arm}-{lr:g}-{seed}".replace(" ", "_")
    optimizer = optimizer or ARMS.get(arm, "muon")
    clips = optimizer == "muonclip"
    random = np.random.default_rng(zlib.crc32(repr((arm, lr, seed, peak)).encode()))
    of_balance = np.random.default_rng(zlib.crc32(repr((arm, seed)).encode()))
    max_logit_N = _max_logits(num_steps, peak, peak if tail is None else tail, random)
    lines = []
    for step in range(1, (diverged_step or num_steps) + 1):
        record = _record(step, num_steps, max_logit_N[step - 1], random, bpb, clips, tau)
        record |= _balance(step, num_steps, max_vio, of_balance)
        if step % 5 == 0:
            record["orthogonality_error"] += noise - 0.1
            record["heldout_bpb"] += before_decay * (step <= num_steps - decay_steps)
        if num_sources > 1 and step % 5 == 0:
            record |= {"heldout_specialisation": 0.2, "heldout_source_divergence": 0.1}
        lines.append({"step": step, **record})
    if not diverged_step and spread:
        lines[-1] |= _heldout(bpb, spread, random)
    if not diverged_step and num_sources > 1:
        lines[-1] |= {
            "specialisation_layers": of_balance.uniform(0.1, 0.3, LAYERS - 1),
            "source_divergence_layers": of_balance.uniform(0.05, 0.15, LAYERS - 1),
            "source_load": of_balance.uniform(0.5, 1.5, (num_sources, EXPERTS)),
        }
    lines[-1] |= extra or {}
    if diverged_step:
        lines.append({"step": diverged_step + 1, "loss": math.nan, "max_logit": math.nan})
    directory.mkdir(parents=True, exist_ok=True)
    # Written by hand: opening a TensorBoard file for each of many runs would cost seconds.
    text = "".join(json.dumps(line, default=np.ndarray.tolist) + "\n" for line in lines)
    (directory / metrics.METRICS_NAME).write_text(text)
    axes = {"arm": arm, "optimizer.lr": lr, "seed": seed} if axes is None else axes
    result = {
        "status": "diverged" if diverged_step else "ok",
        "diverged_step": diverged_step,
        "steps": num_steps,
        "seconds": 12.5,
        "axes": axes,
        "values": {
            "initial_loss": 5.5,
            "final_loss": 1.9,
            "heldout_bpb": math.nan if diverged_step else bpb,
            "heldout_bpb_stderr": None if diverged_step else stderr,
            "heldout_text": heldout_text,
        },
    }
    (directory / results.RESULT_NAME).write_text(json.dumps(result))
    schedule = {"decay_steps": decay_steps}
    settings = {
        "optimizer": {"name": optimizer, "lr": lr, "tau": tau, "schedule": schedule},
        "model": {"num_layers": 3},
    }
    record = {"axes": axes, "tokenizer": "", "config": settings}
    (directory / results.RUN_NAME).write_text(json.dumps(record))
    return results.load(directory)


def sweep(directory: Path, *, seeds: int = 1, num_steps: int = 40) -> list[Run]:
    """Four arms at three rates: Muon blows up at the largest, where AdamW diverges."""
    peaks = {
        "AdamW": (33.0, 82.0, 361.0),
        "Muon NS": (20.0, 43.0, 380.0),
        "Muon PE": (21.0, 51.0, 322.0),
        "MuonClip": (21.0, 34.0, 49.0),
    }
    losses = {
        "AdamW": (2.77, 3.01, 3.4),
        "Muon NS": (2.78, 2.74, 3.21),
        "Muon PE": (2.81, 2.73, 3.23),
        "MuonClip": (2.81, 2.70, 3.06),
    }
    runs = []
    for column, lr in enumerate((0.003, 0.01, 0.03)):
        for arm in ARMS:
            for seed in range(seeds):
                peak = peaks[arm][column] * (1 + 0.03 * seed)
                runs.append(
                    run(
                        directory,
                        arm=arm,
                        lr=lr,
                        seed=seed,
                        peak=peak,
                        tail=min(peak, 31.0) if arm == "MuonClip" else None,
                        bpb=losses[arm][column] + 0.01 * seed,
                        diverged_step=num_steps // 2 if arm == "AdamW" and lr == 0.03 else None,
                        num_steps=num_steps,
                    )
                )
    return runs


def about() -> dict:
    """What kanana_jax.workdir.provenance.load gives of a comparison."""
    return {
        "config": {
            "name": "muon_stress",
            "question": "Does <b>MuonClip</b> hold?",
            "arms": list(ARMS),
        },
        "started": "2026-11-29 05:25:56 UTC",
        "command": "python -m kanana_jax.main --experiment=muon_stress",
        "commit": "0123abc",
        "python": "3.12.3",
        "versions": {"jax": "0.12.0"},
        "device": "1 x cpu, 2 CPU cores",
    }


def _heldout(bpb: float, spread: float, random) -> dict:
    """Sequences of one length whose mean is exactly `bpb`."""
    own_S = random.normal(size=SEQUENCES)
    own_S = (own_S - own_S.mean()) / own_S.std()
    common_S = np.sin(np.arange(SEQUENCES))
    bits_S = bpb + common_S - common_S.mean() + spread * own_S
    bytes_S = np.full(SEQUENCES, 128.0)
    return {"heldout_nats": bits_S * bytes_S * math.log(2), "heldout_bytes": bytes_S}


def _max_logits(num_steps: int, peak: float, tail: float, random) -> np.ndarray:
    """Rises to exactly `peak` two thirds through, then falls to exactly `tail`."""
    crest = 2 * num_steps // 3
    rise = 2.0 * (peak / 2.0) ** (np.arange(1, crest + 1) / crest)
    rise[:-1] *= random.uniform(0.85, 0.999, crest - 1)
    fall = tail + (peak - tail) * np.exp(-np.arange(num_steps - crest) / max(num_steps / 25, 1))
    fall[-math.ceil(num_steps / 10) :] = tail
    return np.concatenate([rise, np.minimum(fall, peak)])


def _balance(step: int, num_steps: int, max_vio: float, random) -> dict:
    """MaxVio starts high and has exactly the mean `max_vio` over layers in the last third."""
    apart_L = random.uniform(-0.4, 0.4, LAYERS - 1) * max_vio
    start = 2.0 * (step <= num_steps - math.ceil(num_steps / 3))
    max_vio_L = max_vio + start + apart_L - apart_L.mean()
    load_LE = random.uniform(0.5, 1.0, (LAYERS - 1, EXPERTS))
    load_LE *= EXPERTS / load_LE.sum(axis=1, keepdims=True)
    found = {"max_vio": max_vio_L.max(), "max_vio_layers": max_vio_L}
    return found | ({"relative_load": load_LE} if step % 5 == 0 else {})


def _record(step, num_steps, max_logit, random, bpb, clips, tau) -> dict:
    share_LH = random.uniform(0.2, 1.0, (LAYERS, HEADS))
    max_logits_LH = max_logit * share_LH / share_LH.max()
    is_clipping = clips and max_logit > tau
    loss = bpb * math.log(2) + 3.6 * math.exp(-12 * step / num_steps) + 0.05 * random.normal()
    record = {
        "loss": loss,
        "max_logit": max_logit,
        "max_logits": max_logits_LH,
        "grad_rms": 1e-3 * random.uniform(0.5, 2.0),
        "update_rms": 2e-3 * random.uniform(0.9, 1.1),
        "lr": 0.01,
        "tokens": 2048 * step,
    }
    if clips:
        record["clip_count"] = int((max_logits_LH > tau).sum())
        record["min_gamma"] = tau / max_logit if is_clipping else 1.0
    if step % 5 == 0:
        record |= {
            "heldout_loss": loss,
            "heldout_bpb": bpb + 5 * math.exp(-12 * step / num_steps),
            "heldout_bpb_stderr": 0.005,
            "qk_spectral_norm": max_logits_LH / 3,
            "orthogonality_error": 0.1 + 0.02 * random.normal(),
        }
    return record
