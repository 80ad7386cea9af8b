"""The HTML page that both reports fill in: one file, nothing loaded from elsewhere."""

import base64
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kanana_jax.report import canvas
from kanana_jax.report.template import TEMPLATE

QK_CLIP = (
    "Attention weighs every pair of tokens by a product of a query and a key, the attention logit; "
    "Muon's full-rank updates can make the weights behind both grow until the largest logit of a "
    "head runs away and its softmax sees only one token. QK-Clip looks at the largest logit of "
    "each head after every step: where it exceeds a threshold tau, it shrinks that head's query "
    "and key weights so that their product falls by the factor gamma = tau / max logit, and it "
    "touches no other head. As the clip acts on the step after the one that overshot, a working "
    "clip lets the max logit hover around tau rather than stay strictly below it, and its price, "
    "if it has one, shows in the held-out loss."
)


@dataclass(frozen=True)
class Figure:
    """A picture of the report: its file name, what it shows, and how to read it."""

    name: str
    title: str
    reading: str
    png: bytes

    @property
    def width_px(self) -> int:
        """Width on the page: the header's pixels, shown at 96 to the inch."""
        return round(int.from_bytes(self.png[16:20], "big") * 96 / canvas.DPI)

    @property
    def data_uri(self) -> str:
        return "data:image/png;base64," + base64.b64encode(self.png).decode("ascii")


def write(
    path: Path,
    *,
    experiment: Mapping[str, Any],
    figures: Iterable[Figure],
    facts: Sequence[tuple[str, str]],
    **content: Any,
) -> None:
    """Writes the page, and every figure as `<figure.name>.png` beside it.

    `experiment` is the record saved with a run: `config` (the resolved configuration as a dict)
    and, where known, `command`, `commit`, `started`, `device`, `python` and `versions` (package to
    version).
    """
    import jinja2

    if "config" not in experiment:
        raise ValueError(
            f"experiment needs the resolved configuration under 'config', got {sorted(experiment)}"
        )
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    config = experiment["config"]
    figures = list(figures)
    html = environment.from_string(TEMPLATE).render(
        name=config.get("name", "experiment"),
        question=config.get("question", ""),
        config=json.dumps(config, indent=2, default=str),
        qk_clip=QK_CLIP,
        figures=figures,
        facts=[*provenance(experiment), *facts],
        **{"claims": (), "table": None, "headline": "", "note": ""} | content,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    for figure in figures:
        (path.parent / f"{figure.name}.png").write_bytes(figure.png)
    path.write_text(html, encoding="utf-8")


def provenance(experiment: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What ran and where, as far as the record knows."""
    facts = [
        (key.capitalize(), str(experiment[key]))
        for key in ("command", "commit", "started", "device")
        if experiment.get(key)
    ]
    versions = dict(experiment.get("versions") or {})
    if experiment.get("python"):
        versions = {"python": experiment["python"], **versions}
    if versions:
        facts.append(("Versions", ", ".join(f"{name} {one}" for name, one in versions.items())))
    return facts
