r"""atlas on one H100 with real languages: Korean beside English, Japanese and two others.

    python -m kanana_jax.data.fetch_corpora --out=corpora --source=libreoffice-help \
        --language=ko,en,ja,zh,de
    python -m kanana_jax.main --experiment=atlas_h100

Dense models of 1.3M to 20M parameters read 16M bytes each, Korean alone eleven times over. All five
texts are translations of one, so a page that is held out in Korean may have been read in another
language: a weight is the most that a language can do here.
`--set=data.paths=A,B,C,D,E` takes other texts, the target first.
"""

import dataclasses

from experiments import atlas
from kanana_jax import config
from kanana_jax.jobs import sweep

LANGUAGES = ("ko", "en", "ja", "zh", "de")
WIDTHS = (128, 256, 384, 512)

run = atlas.run


def experiment() -> sweep.Sweep:
    made = atlas.experiment()
    seq_len, batch_size, num_steps = 512, 32, 1000
    every = num_steps // 10
    shapes = [atlas.shape(width, num_layers=6, head_dim=64) for width in WIDTHS]
    base = dataclasses.replace(
        made.base,
        name="atlas_h100",
        model=shapes[0],
        execution=config.ExecutionConfig(),
        data=dataclasses.replace(
            made.base.data,
            paths=tuple(f"corpora/libreoffice-help-{language}.jsonl" for language in LANGUAGES),
            weights=(1.0, 0.0, 0.0, 0.0, 0.0),
            seq_len=seq_len,
            batch_size=batch_size,
        ),
        optimizer=dataclasses.replace(
            made.base.optimizer,
            polar_dtype="auto",
            schedule=config.ScheduleConfig(name="constant", warmup_steps=50),
        ),
        train=dataclasses.replace(
            made.base.train,
            num_steps=num_steps,
            eval_interval_steps=every,
            diagnostics_interval_steps=num_steps,
            checkpoint_interval_steps=num_steps,
            average=config.AverageConfig(every_tokens=every // 5 * seq_len * batch_size),
        ),
    )
    return dataclasses.replace(made, base=base, arms=atlas.arms(shapes, len(LANGUAGES)))
