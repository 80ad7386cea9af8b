"""Did the reward teach reasoning, beyond what more text does, and at what price?"""

from collections.abc import Mapping, Sequence

from kanana_jax.report import claims, pairs, results, stages
from kanana_jax.report.claims import Claim
from kanana_jax.report.results import Run

GRPO, SQUARED, NO_TEXT = "grpo", "squared", "no stored text"  # arms
GAIN, OVER = 0.3, 0.02
UNREAD = "heldout_unread_pass@1"
_SHOWN = (
    *(f"{name}_pass@1" for name in ("read", "unread", "longest", "other")),
    *("unread_pass@8", "unread_constant", "unread_reasoned", "unread_trace"),
    *("unread_drawn_tokens", "unread_over_length", "bpb_english", "bpb_korean"),
)


def arm(name: str) -> str:
    """What a report calls an arm of the stage of rewards."""
    return f"rl: {name}"


def judge(runs: Sequence[Run]) -> list[Claim]:
    """The claims, whatever came out."""

    def of(name: str, key: str) -> dict[int, float]:
        return {run.seed: run.value(key) for run in results.select(runs, arm=name)}

    rewarded = [arm(name) for name in (GRPO, SQUARED)]
    found = [
        claims.rises(
            f"Does pass@1 of the length that the base has not read rise by {GAIN:g} with {name}?",
            of(name, UNREAD),
            of("base", UNREAD),
            GAIN,
        )
        for name in rewarded
    ]
    first = rewarded[0]
    found += [
        claims.rises("More than by as many tokens of text?", of(first, UNREAD), of("more", UNREAD)),
        claims.rises(
            "Also of longer problems than any that were read or rewarded?",
            of(first, "heldout_longest_pass@1"),
            of("base", "heldout_longest_pass@1"),
        ),
        _text(f"Does {first} keep the text, with some of it in every batch?", runs, first),
        _text("Does it without?", runs, arm(NO_TEXT)),
        _seldom(of(first, "heldout_unread_over_length")),
        _listed("How far did the policies move (KL to the base, nats per token)?", runs, rewarded),
    ]
    return found


def _text(question: str, runs: Sequence[Run], name: str) -> Claim:
    now, was = (results.select(runs, arm=one) for one in (name, "base"))
    texts = ("english", "korean")
    return claims.compared(question, [(text, pairs.compare(now, was, text)) for text in texts])


def _seldom(values: Mapping[int, float]) -> Claim:
    question = f"Are fewer than {OVER:.0%} of the answers cut off?"
    if not values:
        return Claim(question, None, "Not measured.")
    listed = ", ".join(f"{value:.3f}" for value in values.values())
    return Claim(question, all(value < OVER for value in values.values()), f"{listed}.")


def _listed(question: str, runs: Sequence[Run], names: Sequence[str]) -> Claim:
    details = [
        f"{name}: " + ", ".join(f"{run.value('round_kl_to_start'):.3f}" for run in chosen)
        for name in names
        if (chosen := results.select(runs, arm=name))
    ]
    return Claim(question, None, "Below." if details else "Not measured.", tuple(details))


write = stages.judged(judge, [f"heldout_{name}" for name in _SHOWN])
