"""The table of a plan, and the picture of its memory."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt

from kanana_jax.plan.figures import Plan

_GIB = 2**30
_FIELDS = ("param_bytes", "optimizer_bytes", "temporary_bytes")


def table(plan: Plan) -> str:
    """The plan as text; figures that come from arithmetic and not the compiler say so."""

    def mark(name: str) -> str:
        return "  (estimate)" if name in plan.estimates else ""

    is_compiled = "temporary_bytes" not in plan.estimates
    micro = f" in {plan.accumulation_steps} micro-batches" if plan.accumulation_steps > 1 else ""
    mesh = " x ".join(f"{axis}={size}" for axis, size in plan.mesh.items() if size > 1) or "one"
    lines = [
        f"{plan.preset} on {plan.topology} ({plan.device_kind}), mesh {mesh}",
        f"batch {plan.batch_size} x {plan.seq_len} tokens{micro}, "
        f"{'compiled' if is_compiled else 'lowered, not compiled,'} in {plan.compile_s:.0f} s",
        "",
        "HBM per device           GiB",
        *(
            f"  {name:<20} {size / _GIB:>7.2f}" + mark(field)
            for (name, size), field in zip(_parts(plan).items(), _FIELDS, strict=True)
        ),
        f"  {'total':<20} {plan.total_bytes / _GIB:>7.2f}  of {plan.hbm_bytes / _GIB:.0f}: "
        + ("fits" if plan.fits else "DOES NOT FIT")
        + mark("temporary_bytes"),
        "",
        "collectives per step                           times   GB received per device"
        + mark("collectives"),
    ]
    for name, item in sorted(plan.collectives.items(), key=lambda x: -x[1]["num_bytes"]):
        lines.append(f"  {name:<42} {item['count']:>7}   {item['num_bytes'] / 1e9:>8.3f}")
    if plan.num_unknown_loops:
        lines.append(
            f"  {plan.num_unknown_loops} loops of unknown length count once: real collectives and "
            "network time are larger, and the MFU bound is lower"
        )
    lines += [
        "",
        f"model FLOPs per step {plan.model_flops:.3g}, Muon's {plan.muon_flops:.3g}",
        f"estimates: compute {plan.compute_s:.3f} s, network {plan.network_s:.3f} s, "
        f"MFU at most {plan.mfu_bound:.0%}",
    ]
    return "\n".join(lines)


def draw(plan: Plan, path: Path) -> None:
    """One bar of memory by class, against what the device has."""
    figure, axes = plt.subplots(figsize=(8, 2.2), layout="constrained")
    left = 0.0
    for name, size in _parts(plan).items():
        axes.barh(0, size / _GIB, left=left, label=f"{name} {size / _GIB:.1f}")
        left += size / _GIB
    axes.axvline(plan.hbm_bytes / _GIB, color="black", label=f"HBM {plan.hbm_bytes / _GIB:.0f}")
    axes.set(yticks=[], xlabel="GiB per device", title=f"{plan.preset} on {plan.topology}")
    figure.legend(loc="outside lower center", ncols=4, frameon=False)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _parts(plan: Plan) -> dict[str, float]:
    return {
        "parameters": plan.param_bytes,
        "optimizer": plan.optimizer_bytes,
        "temporaries": plan.temporary_bytes,
    }
