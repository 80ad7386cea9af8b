"""How well a model solves tasks: python -m kanana_jax.evaluate.tasks --checkpoint=DIR [...].

    --family=products@1,2 --family=shop --language=en,ko --count=64 --samples=8

The folder is from `kanana_jax.convert` or Hugging Face, with a chat template. Prints what
greedy answers earn, pass@k of the samples, what the best constant answer earns, and how turns end,
all but that constant with the standard error from sampling the tasks. The tasks are held-out ones;
tools and graders run in the sandbox. --out writes the same as JSON. Exit code 2: the folder or a
setting cannot be used.
"""

import argparse
import functools
import json
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from kanana_jax import errors, generate
from kanana_jax.config import RolloutConfig
from kanana_jax.data import Tokenizer, whole_files
from kanana_jax.data.chat import Format, foreign
from kanana_jax.evaluate import pass_at_k, success
from kanana_jax.generate import chat, command
from kanana_jax.rollouts import episodes, grading, sandbox
from kanana_jax.rollouts.environments import drawing, families
from kanana_jax.rollouts.episodes import Episode
from kanana_jax.rollouts.task import Task

_PROGRAM = "kanana_jax.evaluate.tasks"
_KS = (1, 8, 64)


def measure(
    loaded: generate.Loaded, cfg: RolloutConfig, *, length: int, threshold: float = 1.0
) -> dict[str, float]:
    """The figures of `success.summarize` for greedy answers, and of `success.passes` for samples.

    An episode has at most `length` tokens. A try with a reward of at least `threshold` is a pass.
    `constant` is what the best of the oracles' answers earns when it is given to every task.
    """
    drawn = drawing.tasks_of(
        [families.of(name) for name in cfg.families],
        cfg.languages,
        seed=cfg.seed,
        count=cfg.num_prompts,
        heldout=True,
    )
    limits = episodes.Limits(max_tokens=cfg.max_tokens, max_turns=cfg.max_turns, length=length)
    form, tokenizer = _format(loaded)
    engine = loaded.engine(num_rows=cfg.num_rows, length=length)
    num = cfg.num_samples
    tries = [(task, k) for task in drawn for k in range(num)]
    with (
        sandbox.Pool() as tools,
        sandbox.Pool() as graders,
        tqdm(total=len(drawn) + len(tries), unit="tries") as bar,
    ):
        player = episodes.Player(form, tokenizer, tools, graders, limits)

        def play(some: Sequence[tuple[Task, int]], temperature: float) -> list[Episode]:
            played = player.play(some, functools.partial(generate.answers, engine), temperature)
            bar.update(len(some))
            return played

        found = success.summarize(play([(task, 0) for task in drawn], 0.0))
        sampled = play(tries, cfg.temperature)
        groups = [sampled[k * num : (k + 1) * num] for k in range(len(drawn))]
        found |= success.passes(groups, [k for k in _KS if k <= num], threshold)
        return found | {"constant": _constant(drawn, graders)}


def _format(loaded: generate.Loaded) -> tuple[Format, Tokenizer]:
    if loaded.own_format is not None:
        return loaded.own_format
    if loaded.template is None:
        raise chat.ChatError(chat.no_template_message(loaded.directory))
    name = str(loaded.directory)
    return foreign.format_of(loaded.template, name), loaded.tokenizer


def _constant(drawn: Sequence[Task], pool: sandbox.Pool) -> float:
    """The mean reward of the one answer that earns most."""
    best = 0.0
    for said in dict.fromkeys(task.oracle[-1]["content"] for task in drawn):
        replies = [
            grading.Reply(
                task=task, messages=[{"role": "assistant", "content": said}], state=task.state
            )
            for task in drawn
        ]
        rewards = [
            outcome.value["reward"] if outcome.status == "ok" else 0.0
            for outcome in grading.grade_all(pool, replies)
        ]
        best = max(best, pass_at_k.mean(rewards).value)
    return best


def main(argv: list[str] | None = None) -> None:
    arguments = _parser().parse_args(argv)
    with errors.reported(_PROGRAM):
        cfg = RolloutConfig(
            families=tuple(arguments.family),
            languages=tuple(arguments.language.split(",")),
            num_prompts=arguments.count,
            num_samples=arguments.samples,
            temperature=arguments.temperature,
            max_tokens=arguments.max_tokens,
            max_turns=arguments.max_turns,
            num_rows=arguments.batch_size,
            seed=arguments.seed,
        )
        found = measure(command.load(arguments), cfg, length=arguments.length)
        for name, value in found.items():
            if not name.endswith("_stderr"):
                error = found.get(f"{name}_stderr")
                print(f"{name:32} {value:8.3f}" + (f" +- {error:.3f}" if error else ""))
        if arguments.out:
            with whole_files.written(Path(arguments.out)) as file:
                json.dump({"settings": vars(arguments), "found": found}, file, indent=2)


def _parser() -> argparse.ArgumentParser:
    parser = command.model_parser(_PROGRAM)
    names = ", ".join(families.FAMILIES)
    parser.add_argument("--family", action="append", required=True, help=f"of {names}; repeat")
    parser.add_argument("--language", default="en,ko")
    parser.add_argument("--count", type=int, default=64, help="tasks")
    parser.add_argument("--samples", type=int, default=8, help="answers to each, for pass@k")
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--max-tokens", type=int, default=256, help="of one turn of the model")
    parser.add_argument("--max-turns", type=int, default=8)
    parser.add_argument("--length", type=int, default=2048, help="tokens of a whole conversation")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", help="a file for the figures as JSON")
    return parser


if __name__ == "__main__":
    main()
