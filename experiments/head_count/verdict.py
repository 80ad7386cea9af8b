"""What twice as many heads take off the loss, and what they cost in training and inference.

per cent     of the loss at equal tokens
ratio        FLOPs of training to one loss, with the fewer heads over with twice as many
inference    FLOPs of the next token after 128K: 2 active parameters + 2 L H (K + V) 128K
"""

import itertools
from collections.abc import Sequence

from experiments.sparsity_law import measures
from kanana_jax import config, model
from kanana_jax.report import claims, results, tables
from kanana_jax.report.claims import Claim
from kanana_jax.report.results import Run

CONTEXT = 128 * 1024


def name(heads: int) -> str:
    """An arm's name."""
    return f"{heads} heads"


def judge(runs: Sequence[Run]) -> tuple[str, list[Claim]]:
    """The headline and the claims, whatever came out."""
    found = measures.of_arms(runs)
    arms = [arm for arm in results.arms(runs) if arm in found]
    if len(arms) < 2:
        return "Fewer than two numbers of heads were measured, so nothing is judged.", []
    gains, pays = [], []
    for few, many in itertools.pairwise(arms):
        before, after = (measures.last_losses(found[arm]) for arm in (few, many))
        saved = {seed: 100 * (1 - after[seed] / before[seed]) for seed in before.keys() & after}
        question = f"Is the loss lower with {many} than with {few}, at equal tokens?"
        gains.append(claims.above(question, saved, 0.0, "What is saved of the loss, in per cent,"))
        question = f"Does a loss take more FLOPs of training with {few} than with {many}?"
        pays.append(
            claims.above(question, measures.gains(runs, found, few, many), 1.0, "The ratio")
        )
    words = {
        True: "Twice as many heads pay in FLOPs of training, at every step.",
        False: "Twice as many heads do not always pay in FLOPs of training.",
        None: "These runs do not tell whether twice as many heads pay in FLOPs of training.",
    }
    others = [_inference(runs, arms), claims.divergence(tables.summarize(runs))]
    return words[claims.all_hold(pays)], [*gains, *pays, *others]


def inference_flops(shape: config.ModelConfig, context: int = CONTEXT) -> float:
    """FLOPs of the next token after a context, with the keys and values of every head at hand."""
    _, active = model.num_params(shape)
    looked_up = 0 if shape.tie_embeddings else shape.vocab_size * shape.hidden_size
    per_position = shape.num_layers * shape.num_heads * (shape.qk_head_dim + shape.v_head_dim)
    return 2.0 * (active - looked_up) + 2.0 * context * per_position


def _inference(runs: Sequence[Run], arms: Sequence[str]) -> Claim:
    costs = {}
    for arm in arms:
        (run, *_) = results.select(runs, arm=arm)
        costs[arm] = inference_flops(config.from_json(config.ModelConfig, run.config["model"]))
    details = tuple(f"{arm}: {cost / costs[arms[0]]:.2f} times" for arm, cost in costs.items())
    question = "What does the next token cost behind 128K tokens?"
    return Claim(question, None, "FLOPs, by arithmetic.", details)
