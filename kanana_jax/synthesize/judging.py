"""A model's word on a rewrite: does it say what its source says?

Code sees numbers, units, names and sentences, but not who did what to whom. What a judge finds
wrong is a problem of the kind "judged"; its approval is no proof.
"""

from kanana_jax.synthesize import reading
from kanana_jax.synthesize.fidelity import Problem
from kanana_jax.synthesize.replies import Ask, Failure, RequestFailed
from kanana_jax.synthesize.requests import Request

_MAX_TOKENS = 256
_SYSTEM = "You compare a rewrite with the text that it was made of."
_ASKED = (
    "<text>\n{source}\n</text>\n\n<rewrite>\n{rewrite}\n</rewrite>\n\nIs anything in the rewrite "
    "that the text does not say, is anything said otherwise, or is a fact missing? Other words and "
    "another order are fine. Answer with a JSON object "
    '{{"faithful": 0 or 1, "why": "what is wrong, or nothing"}} alone.'
)


async def judge(source: str, rewrite: str, ask: Ask, model: str, seed: int) -> list[Problem]:
    """The problem that the judge finds, or none. RequestFailed where it has no verdict."""
    asked = _ASKED.format(source=source.strip(), rewrite=rewrite)
    request = Request(
        model=model,
        messages=[{"role": "system", "content": _SYSTEM}, {"role": "user", "content": asked}],
        max_tokens=_MAX_TOKENS,
        temperature=0.0,
        seed=seed,
    )
    answer = await ask(request)
    try:
        found = reading.first_object(answer.text)
    except reading.UnreadableError as error:
        raise RequestFailed(Failure("unreadable", str(error))) from None
    if found.get("faithful") not in (0, 1):
        raise RequestFailed(Failure("unreadable", f"no 0 or 1 in {answer.text[:80]!r}"))
    return [] if found["faithful"] else [Problem("judged", str(found.get("why", ""))[:200])]
