"""The coordinate check: do activations move equally far at every width?

    python -m kanana_jax.coordinates --rules=none,half,spectral,kakao --out=DIR

Models of one family (`presets.tiny_family`) take the same few steps at every width. The measure is
how far each activation is from where it began, as an RMS over tokens and coordinates. A rule fits
the widths if that does not depend on them: |slope| of ln RMS against ln width of at most 0.1.
"""

import argparse
import dataclasses
import functools
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from kanana_jax import errors, extras

with extras.needed("train"):
    import jax
    import numpy as np
    import optax

    from kanana_jax import config, data, parallel
    from kanana_jax.batch import Batch
    from kanana_jax.model import presets, streams
    from kanana_jax.objectives import NextToken
    from kanana_jax.report import canvas
    from kanana_jax.train import step as step_lib
    from kanana_jax.train import step_functions
    from kanana_jax.train.step_config import StepConfig

_PROGRAM = "kanana_jax.coordinates"
READ_AFTER = (1, 2, 5, 10)  # steps
LARGEST_SLOPE = 0.1
_ANY = config.OptimizerConfig()
_COLORS = (*canvas.EMPHASIZED_COLORS, *canvas.OTHER_COLORS)


class Change(NamedTuple):
    """How far an activation moved: its RMS after so many steps."""

    rule: str
    width: int
    seed: int
    step: int
    name: str  # "layer 1 attention", "logits"
    rms: float


class Slope(NamedTuple):
    """The slope of ln RMS against ln width, over seeds.

    `band` is twice its standard error, NaN for two points.
    """

    rule: str
    step: int
    name: str
    value: float
    band: float

    @property
    def is_flat(self) -> bool:
        return abs(self.value) <= LARGEST_SLOPE


def training(
    rule: str, width: int, base_width: int, lr: float, data_cfg: config.DataConfig
) -> config.TrainingConfig:
    """MuonClip at a constant rate, without a guard that could skip a step."""
    is_none = rule == "none"
    return config.TrainingConfig(
        name="coordinates",
        question="",
        model=presets.tiny_family(width),
        execution=presets.LAPTOP,
        data=data_cfg,
        optimizer=config.OptimizerConfig(
            lr=lr,
            polar_dtype="float32",
            schedule=config.ScheduleConfig(name="constant"),
            transfer=rule,  # pyright: ignore  # the type that it is checked against
            transfer_base_width=0 if is_none else base_width,
        ),
        guard=config.GuardConfig(enabled=False),
        mesh=config.MeshConfig(data=1, fsdp=1),
    )


def changes(
    step: StepConfig, lr: float, batches: Sequence[Batch], seeds: Sequence[int]
) -> Iterator[Change]:
    """Takes one step on each batch and compares the first batch's activations with the start."""
    mesh = parallel.make_mesh(config.MeshConfig(data=1, fsdp=1), jax.devices()[:1])
    read, gradients = _shared_by_rules(dataclasses.replace(step, optimizer=_ANY))
    optimizer = step.make_optimizer(lr)

    @jax.jit
    def update(weights, opt_state, grads, max_logits):
        moves, opt_state = optimizer.update(
            grads, opt_state, weights.params, max_logits=max_logits, loss=0.0
        )
        return weights._replace(params=optax.apply_updates(weights.params, moves)), opt_state

    for seed in seeds:
        with jax.set_mesh(mesh):
            weights = step_functions.build(step, mesh).weights(seed)
            opt_state = optimizer.init(weights.params)
            first = jax.device_get(read(weights, batches[0].inputs))
            for number, batch in enumerate(batches, start=1):
                grads, seen, _ = gradients(weights, batch)
                weights, opt_state = update(weights, opt_state, grads, seen.maxima["max_logits"])
                if number not in READ_AFTER:
                    continue
                now = jax.device_get(read(weights, batches[0].inputs))
                for name, values in now.items():
                    rms = float(np.sqrt(np.mean((values - first[name]) ** 2)))
                    width = step.model.hidden_size
                    yield Change(step.optimizer.transfer, width, seed, number, name, rms)


@functools.lru_cache(maxsize=16)
def _shared_by_rules(step: StepConfig):
    """Functions for activations and gradients, which the rule for rates does not change."""

    def activations(weights, inputs):
        return streams.activations(step.model, weights, inputs, step.execution)

    gradients = jax.jit(lambda weights, batch: step_lib.gradients(weights, batch, {}, step))
    return jax.jit(activations), gradients


def slopes(found: Sequence[Change]) -> list[Slope]:
    """The slope of every activation at every step, over widths and seeds."""
    cells: dict[tuple[str, int, str], list[Change]] = {}
    for one in found:
        cells.setdefault((one.rule, one.step, one.name), []).append(one)
    return [Slope(*key, *_slope(cell)) for key, cell in cells.items()]


def _slope(cell: Sequence[Change]) -> tuple[float, float]:
    x_N = np.log([one.width for one in cell])
    y_N = np.log([max(one.rms, 1e-30) for one in cell])
    centered_N = x_N - x_N.mean()
    size = float(centered_N @ centered_N)
    slope = float(centered_N @ y_N) / size
    if len(cell) < 3:
        return slope, float("nan")
    rest_N = y_N - y_N.mean() - slope * centered_N
    return slope, 2.0 * float(np.sqrt(rest_N @ rest_N / (len(cell) - 2) / size))


def text(found: Sequence[Slope]) -> str:
    """A table for each rule after the last step that was read: slopes, and what is not flat."""
    last = max(one.step for one in found)
    rules = list(dict.fromkeys(one.rule for one in found))
    names = list(dict.fromkeys(one.name for one in found))
    at = {(one.rule, one.name): one for one in found if one.step == last}
    lines = [f"slope of ln RMS change against ln width after {last} steps"]
    lines.append(f"{'':<18}" + "".join(f"{rule:>18}" for rule in rules))
    for name in names:
        cells = (at[rule, name] for rule in rules)
        shown = (f"{c.value:+.2f} +- {c.band:.2f}{' ' if c.is_flat else '*'}" for c in cells)
        lines.append(f"{name:<18}" + "".join(f"{one:>18}" for one in shown))
    flat = [sum(at[rule, name].is_flat for name in names) for rule in rules]
    counted = (f"{number} of {len(names)}" for number in flat)
    lines.append(f"{'flat':<18}" + "".join(f"{one + ' ':>18}" for one in counted))
    return "\n".join([*lines, f"* steeper than {LARGEST_SLOPE}"])


def draw(found: Sequence[Change], path: Path) -> None:
    """RMS change after the last step against width, a panel for each rule."""
    last, rules = max(x.step for x in found), list(dict.fromkeys(x.rule for x in found))
    figure, table = canvas.panels(len(rules))
    names = list(dict.fromkeys(x.name for x in found))
    widths = sorted({x.width for x in found})
    for axes, rule in zip(table[0], rules, strict=True):
        for number, name in enumerate(names):
            here = [x for x in found if (x.rule, x.step, x.name) == (rule, last, name)]
            means = [np.mean([x.rms for x in here if x.width == width]) for width in widths]
            color = _COLORS[number % len(_COLORS)]
            style = "o-" if number < len(_COLORS) else "s--"  # more lines than colours
            axes.plot(widths, means, style, ms=3, lw=1, color=color, label=name)
        axes.set(xscale="log", yscale="log", xlabel="width")
        axes.minorticks_off()
        axes.set_xticks(widths, [str(width) for width in widths])
        canvas.title(axes, f"{rule}, {last} steps")
    table[0, 0].set_ylabel("RMS change")
    figure.legend(
        *table[0, 0].get_legend_handles_labels(),
        loc="outside lower center",
        ncols=4,
        frameon=False,
        fontsize=8,
    )
    path.write_bytes(canvas.png(figure))


def main(argv: list[str] | None = None) -> None:
    arguments = _parser().parse_args(argv)
    with errors.reported(_PROGRAM):
        _run(arguments)


def _run(arguments: argparse.Namespace) -> None:
    rules, widths = arguments.rules.split(","), _whole_numbers(arguments.widths, "--widths")
    if len(set(widths)) < 2 or arguments.seeds < 1:
        raise config.ConfigError(
            f"--widths must be two or more and --seeds 1 or more, got {arguments.widths} and "
            f"{arguments.seeds}"
        )
    data_cfg = config.DataConfig(paths=tuple(arguments.path), seq_len=64, batch_size=8)
    cfgs = [
        training(rule, width, min(widths), arguments.lr, data_cfg)
        for rule in rules
        for width in sorted(set(widths))
    ]
    if arguments.out is not None:
        arguments.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        corpus = data.open_corpus(data_cfg, Path(folder))
        read = data.train_batches(corpus, data_cfg)
        batches = [next(read) for _ in range(max(READ_AFTER))]
    found: list[Change] = []
    for cfg in cfgs:
        step = StepConfig.of(cfg.with_vocab(corpus.vocab_size), NextToken(), num_devices=1)
        found += changes(step, arguments.lr, batches, range(arguments.seeds))
        print(f"{cfg.optimizer.transfer}, width {cfg.model.hidden_size}: done", flush=True)
    of_rules = slopes(found)
    print(text(of_rules))
    if arguments.out is not None:
        (arguments.out / "coordinates.json").write_text(json.dumps(as_json(found, of_rules)))
        draw(found, arguments.out / "coordinates.png")


def as_json(found: Sequence[Change], of_rules: Sequence[Slope]) -> Mapping[str, Any]:
    """All that was measured."""
    return {
        "changes": [one._asdict() for one in found],
        "slopes": [one._asdict() | {"is_flat": one.is_flat} for one in of_rules],
    }


def _whole_numbers(given: str, name: str) -> list[int]:
    try:
        return [int(one) for one in given.split(",")]
    except ValueError:
        raise config.ConfigError(
            f"{name} must be whole numbers between commas, got {config.shown(given)}"
        ) from None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"python -m {_PROGRAM}",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rules", default="none,half,spectral,kakao", help="optimizer.transfer")
    parser.add_argument("--widths", default="32,64,128", help="the narrowest is the base")
    parser.add_argument("--lr", type=float, default=0.004, help="at the narrowest width")
    parser.add_argument("--seeds", type=int, default=2, help="of the initial weights")
    parser.add_argument("--path", action="append", default=[], help="text; default: Python's own")
    parser.add_argument("--out", type=Path, help="folder for coordinates.json and .png")
    return parser


if __name__ == "__main__":
    main()
