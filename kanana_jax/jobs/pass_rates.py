"""The evaluator of sampled answers: sets of held-out tasks, several tries of each.

    heldout_SET_pass@1, heldout_SET_pass@k     k: the tries of a task        each with _stderr
    heldout_SET_PART                           means of the parts of the rewards
    heldout_SET_constant                       what the answer that is right most often earns
    heldout_SET_reasoned                       the share of answers after a reasoning
    heldout_SET_drawn_tokens, heldout_SET_over_length

Tasks and seeds are the same in every run, so runs can be compared task by task.
"""

from collections import Counter
from collections.abc import Mapping, Sequence

from kanana_jax import config, model
from kanana_jax.config import RolloutConfig
from kanana_jax.data import Tokenizer
from kanana_jax.evaluate import pass_at_k, success
from kanana_jax.jobs import playing
from kanana_jax.jobs.job import Built, Job, measuring
from kanana_jax.rollouts import groups as groups_lib
from kanana_jax.rollouts.episodes import Episode
from kanana_jax.train import fit

_RIGHT = 1.0  # the reward of a pass


def evaluator(
    sets: Mapping[str, RolloutConfig],
    cfg: config.DataConfig,
    tokenizer: Tokenizer,
    built: Built,
    every: int,
) -> fit.Evaluator:
    """Over num_prompts held-out tasks of each set, num_samples tries of each."""
    players = {name: playing.Playing(one, cfg, tokenizer, built) for name, one in sets.items()}

    def measure(weights: model.Weights) -> dict[str, float]:
        found: dict[str, float] = {}
        for name, player in players.items():
            groups = player.heldout_groups(weights, sets[name].num_prompts)
            found |= {f"heldout_{name}_{key}": x for key, x in summarize(groups).items()}
        return found

    return fit.Evaluator("heldout_passes", every, measure)


def measured(job: Job, sets: Mapping[str, RolloutConfig]) -> Job:
    """`job`, which measures `sets` too, at the end of training."""

    def make(
        corpus, cfg: config.DataConfig, train: config.TrainConfig, built: Built
    ) -> fit.Evaluator:
        return evaluator(sets, cfg, corpus.tokenizer, built, train.num_steps)

    return measuring(job, make)


def summarize(groups: Sequence[Sequence[Episode]]) -> dict[str, float]:
    """The figures in the module's head, for one set."""
    size = len(groups[0])
    found = success.passes(groups, sorted({1, size}), _RIGHT)
    tries = [one for group in groups for one in group]
    parts: dict[str, list[float]] = {}
    for one in tries:
        for name, value in one.parts.items():
            parts.setdefault(name, []).append(value)
    shares = {
        **{name: pass_at_k.mean(values) for name, values in parts.items()},
        "reasoned": pass_at_k.mean([groups_lib.form(one) for one in tries]),
        "drawn_tokens": pass_at_k.mean([float(one.num_drawn) for one in tries]),
        "over_length": pass_at_k.mean([float(one.is_cut) for one in tries]),
    }
    return {**found, **pass_at_k.named(shares), "constant": _constant(groups)}


def _constant(groups: Sequence[Sequence[Episode]]) -> float:
    """The share of the tasks with the most frequent answer."""
    answers = Counter(group[0].task.oracle[-1]["content"] for group in groups)
    return answers.most_common(1)[0][1] / len(groups)
