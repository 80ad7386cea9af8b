"""The FP8 check: how far does FP8 move the gradients of a trained model, and Muon's steps?

    python -m kanana_jax.fp8_check --run=runs/fp8_parity/runs/no-fp8-seed0

The gradient of one batch, in each precision, is compared with the one without FP8, matrix by matrix
and layer by layer: the norm of the difference over the norm, and the cosine of Muon's two updates
from no momentum. Another batch of the same text, without FP8, shows what sampling does. A run's
momentum averages both over steps, so single steps are the worst case.
"""

import argparse
import dataclasses
import json
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from kanana_jax import errors, extras

with extras.needed("train"):
    import jax
    import jax.numpy as jnp
    import numpy as np

    from kanana_jax import config, data, model, parallel
    from kanana_jax.batch import Batch
    from kanana_jax.jobs import pretrain, training
    from kanana_jax.train import optimizers, step_functions
    from kanana_jax.train import step as step_lib
    from kanana_jax.train.step_config import StepConfig
    from kanana_jax.weights import native, run_folder

_PROGRAM = "kanana_jax.fp8_check"
PRECISIONS = ("fp8_store", "fp8", "fp8_experts", "fp8_float32_scales", "fp8_per_tensor")
OTHER_BATCH = "another batch"


class Moved(NamedTuple):
    """One matrix of one layer, against the gradient without FP8 of the same batch."""

    arm: str  # a precision, or another batch
    weight: str  # "moe_layers/mlp/w_down"
    layer: int  # of its stack, from 0
    error: float  # |g' - g| / |g|
    cosine: float  # of Muon's updates


def measure(
    step: StepConfig, weights: model.Weights, batches: tuple[Batch, Batch]
) -> Iterator[Moved]:
    """Compares on the first batch; the second one is the control."""
    plain = dataclasses.replace(step.optimizer, name="muon", weight_decay=0.0)
    specs = optimizers.polar_specs(plain, step.model)
    muon = optimizers.make(plain, step.model, lambda count: jnp.ones(()))

    @jax.jit
    def update(grads):
        return muon.update(grads, muon.init(weights.params), weights.params)[0]

    def found(precision: str, batch: Batch) -> tuple[Any, Any]:
        execution = dataclasses.replace(step.execution, precision=precision)
        cfg = dataclasses.replace(step, execution=execution)
        read = jax.jit(lambda weights, batch: step_lib.gradients(weights, batch, {}, cfg)[0])
        grads = read(weights, batch)
        return jax.device_get((grads, update(grads)))

    base = found("full", batches[0])
    for arm in (OTHER_BATCH, *PRECISIONS):
        is_control = arm == OTHER_BATCH
        other = found("full" if is_control else arm, batches[is_control])
        yield from _compared(arm, specs, base, other)


def _compared(arm: str, specs: Any, base: Any, other: Any) -> Iterator[Moved]:
    flat, _ = jax.tree_util.tree_flatten_with_path(specs, is_leaf=optimizers.is_spec)
    leaves = (jax.tree.leaves(tree) for tree in (*base, *other))
    for (path, spec), grad_L, step_L, grad2_L, step2_L in zip(flat, *leaves, strict=True):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        if spec is None or not name.startswith(("dense_layers", "moe_layers")):
            continue
        for layer, (grad, step, grad2, step2) in enumerate(
            zip(grad_L, step_L, grad2_L, step2_L, strict=True)
        ):
            error = np.linalg.norm(grad2 - grad) / np.linalg.norm(grad)
            cosine = np.vdot(step, step2) / (np.linalg.norm(step) * np.linalg.norm(step2))
            yield Moved(arm, name, layer, float(error), float(cosine))


def text(found: Sequence[Moved]) -> str:
    """A row for each matrix: errors and cosines, means over layers."""
    cells: dict[tuple[str, str], list[Moved]] = {}
    for one in found:
        cells.setdefault((one.weight, one.arm), []).append(one)
    arms = list(dict.fromkeys(one.arm for one in found))
    head = "error of the gradient, cosine of the update"
    lines = [f"{head:<46}" + "".join(f"{arm:>20}" for arm in arms)]
    for weight in dict.fromkeys(one.weight for one in found):
        row = (cells[weight, arm] for arm in arms)
        shown = (
            f"{np.mean([x.error for x in one]):8.2%} {np.mean([x.cosine for x in one]):.3f}"
            for one in row
        )
        lines.append(f"{weight:<46}" + "".join(f"{one:>20}" for one in shown))
    return "\n".join(lines)


def of_run(run: Path) -> list[Moved]:
    """Measures the newest checkpoint of a run on the first two batches of its text."""
    recorded = run_folder.open_run(run)
    settings = json.loads((run / "run.json").read_text())["config"]
    cfg = config.from_json(pretrain.Config, settings)
    # The model as `import_run` writes it: of the last stage, and with adapters merged.
    cfg = dataclasses.replace(
        cfg,
        model=recorded.what.cfg,
        lora=config.LoraConfig(),
        mesh=config.MeshConfig(data=1, fsdp=1),
        execution=dataclasses.replace(cfg.execution, accumulation_steps=1),
    )
    if recorded.tokenizer is not None:
        cfg = cfg.edited([f"data.tokenizer={recorded.tokenizer}"])
    mesh = parallel.make_mesh(cfg.mesh, jax.devices()[:1])
    with tempfile.TemporaryDirectory() as folder:
        corpus = data.open_corpus(cfg.data, Path(folder))
        read = data.train_batches(corpus, cfg.data)
        batches = next(read), next(read)
        run_folder.import_run(run, Path(folder) / "model")
        step = StepConfig.of(cfg, training.next_token(cfg))
        like = step_functions.build(step, mesh).like_whole
        weights = native.restore(Path(folder) / "model", like)
    with jax.set_mesh(mesh):
        return list(measure(step, weights, batches))


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog=f"python -m {_PROGRAM}",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--run", type=Path, required=True, help="a run's folder: .../runs/ARM-seedN"
    )
    parser.add_argument("--out", type=Path, help="a .json file for every layer's figures")
    arguments = parser.parse_args(argv)
    with errors.reported(_PROGRAM):
        found = of_run(arguments.run)
        print(text(found))
        if arguments.out is not None:
            arguments.out.write_text(json.dumps([one._asdict() for one in found]))


if __name__ == "__main__":
    main()
