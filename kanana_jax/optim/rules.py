"""Every leaf of a parameter tree is claimed by exactly one declared rule.

A rule is a regular expression that must match a leaf's whole path, such as
"moe_layers/attention/wq", and the value it gives: a label for `partition`, a spec, anything.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import optax

from kanana_jax.optim import trees

Rules = Sequence[tuple[str, Any]]


def assign(rules: Rules, params: Any) -> Any:
    """Return a tree like `params` that holds the value of the one rule matching each path.

    Raises ValueError listing leaves that no rule or several rules claim, and rules without a leaf.
    """
    patterns = [re.compile(pattern) for pattern, _ in rules]
    _, _, paths, rebuild = trees.describe(params, None, "rules")
    claims = [[i for i, p in enumerate(patterns) if p.fullmatch(path)] for path in paths]
    problems = [
        f"{path!r} is claimed by {[rules[i][0] for i in claim] or 'no rule'}"
        for path, claim in zip(paths, claims, strict=True)
        if len(claim) != 1
    ]
    used = {i for claim in claims for i in claim}
    problems += [f"{rules[i][0]!r} matches no leaf" for i in range(len(rules)) if i not in used]
    if problems:
        raise ValueError(
            f"each leaf must be claimed by exactly one rule: {'; '.join(problems)}. "
            f"Leaves: {paths}."
        )
    return rebuild([rules[claim[0]][1] for claim in claims])


def partition(
    transforms: Mapping[Any, optax.GradientTransformation],
    labels: Any,
) -> optax.GradientTransformationExtraArgs:
    """Give each leaf to the transform its label names (`optax.partition`, checked).

    `labels` is a tree of labels like the parameters or the upper part of it, a list of (pattern,
    label) rules, or a function from the parameters to a tree of labels.
    """

    def label_fn(tree):
        given = assign(labels, tree) if _is_rules(labels) else labels
        _, each, paths, rebuild = trees.describe(tree, given, "labels")
        unknown = [f"{p!r}: {x!r}" for p, x in zip(paths, each, strict=True) if x not in transforms]
        if unknown:
            raise ValueError(
                f"labels must be among {sorted(transforms)}, got {', '.join(unknown)}."
            )
        return rebuild(each)

    return optax.partition(transforms, label_fn)


def _is_rules(labels) -> bool:
    def is_rule(item):
        return isinstance(item, tuple) and len(item) == 2 and isinstance(item[0], str)

    return isinstance(labels, list | tuple) and bool(labels) and all(map(is_rule, labels))
