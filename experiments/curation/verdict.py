"""Does each step of curation help, and does better English lift Korean (arXiv:2502.18934)?"""

from collections.abc import Sequence

from experiments.curation import corpora
from kanana_jax.report import claims, pairs, results, stages
from kanana_jax.report.claims import Claim
from kanana_jax.report.results import Run

_STEPS = {
    corpora.DEDUP: "Is prose predicted better without duplicates than raw?",
    corpora.HEURISTICS: "Better yet without what rules of thumb drop?",
    corpora.EDUCATION: "Better yet without what has no educational value?",
}


def judge(runs: Sequence[Run]) -> list[Claim]:
    """The claims, whatever came out; all on text that no arm has read."""
    of_depth = {depth: results.select(runs, arm=depth) for depth in corpora.DEPTHS}
    befores: dict[str, str] = dict(zip(corpora.DEPTHS[1:], corpora.DEPTHS, strict=False))
    found = [
        claims.better(question, _compared(of_depth, depth, befores[depth], corpora.PROSE))
        for depth, question in _STEPS.items()
    ]
    found.append(
        claims.better(
            "Is prose predicted better after all steps than raw?",
            _compared(of_depth, corpora.EDUCATION, corpora.RAW, corpora.PROSE),
        )
    )
    return found + [
        claims.better(
            f"Does better English lift {what}, of which all arms read as much?",
            _compared(of_depth, corpora.EDUCATION, corpora.RAW, label),
        )
        for label, what in ((corpora.KOREAN, "Korean text"), (corpora.KOREAN_SUMS, "Korean sums"))
    ]


def _compared(
    of_depth: dict[str, list[Run]], depth: str, other: str, label: str
) -> pairs.Comparison:
    if not of_depth[depth] or not of_depth[other]:
        return pairs.Comparison("not measured", ("not run",))
    return pairs.compare(of_depth[depth], of_depth[other], label)


write = stages.judged(judge, tuple(f"heldout_bpb_{label}" for label in corpora.MEASURED))
