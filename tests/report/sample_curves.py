"""A few pictures of what fabricated runs record."""

from kanana_jax.report.curves import Curve, Reference, Row
from kanana_jax.report.heatmaps import Map


def tau(run):
    return run.config["optimizer"]["tau"]


LOSS = Curve(
    name="loss",
    title="Loss",
    reading="Mean of the last {window} steps.",
    rows=(Row(key="loss", label="loss", is_smoothed=True, fits_trained=True),),
)
LOGIT = Curve(
    name="logit",
    title="Logit",
    reading="The dashed lines are each run's own.",
    rows=(
        Row(
            key="max_logit",
            label="logit",
            is_log=True,
            references=(Reference("tau", tau), Reference("floor", 2.0)),
        ),
    ),
)
CLIPPING = Curve(
    name="clipping",
    title="Clipping",
    reading="Two rows.",
    rows=(
        Row(key="clip_count", label="heads", bottom=0.0),
        Row(key="min_gamma", label="gamma", bottom=0.0, top=1.05),
    ),
)
NORM = Curve(
    name="norm",
    title="Norm",
    reading="The largest of each record.",
    rows=(Row(key="qk_spectral_norm", label="norm", reduction="largest", is_marked=True),),
)
HEADS = Map(
    name="heads",
    title="Heads",
    reading="Over tau.",
    key="max_logits",
    reference=tau,
    unit="tau",
    line="layer",
    column="head",
    label="logit",
)
ALL = (LOSS, LOGIT, CLIPPING, NORM, HEADS)
