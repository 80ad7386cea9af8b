"""The verdict on the multilingual law, on made-up runs of which the law is known."""

import json

import numpy as np
import pytest

from experiments import atlas, atlas_h100
from experiments.atlas import picture, table, verdict
from kanana_jax import config
from kanana_jax.laws import forms, recovery
from kanana_jax.report import canvas, results

LABELS = ("ko", "en", "prose", "code")
UNIQUE = (3e6, 5e6, 5e6, 20e6)
TRUTH = recovery.TRUTH.values | {"tau_2": -0.2}
BLIND = {"E": 1.2, "A": 110.0, "B": 120.0, "alpha": 0.34, "beta": 0.30}


def fabricated(folder, *, seeds=1, is_blind=False, sigma=1e-3, scale=1e3):
    """Runs of the experiment's arms whose losses are those of a law; tokens are scaled up."""
    form, values = (forms.CHINCHILLA, BLIND) if is_blind else (forms.atlas(2), TRUTH)
    law, random, made = forms.Law(form, values), np.random.default_rng(0), []
    swept = atlas.experiment()
    for arm in swept.arms:
        cfg = swept.base.edited(arm.edits).with_vocab(258)
        share = np.array(cfg.data.weights) / sum(cfg.data.weights)
        tokens_N = np.array([20, 60, 150, 300]) * 1024.0 * scale / 10
        at = forms.points(
            np.full(4, table.num_params(cfg.model) * 20),
            tokens_N * share[0],
            sources_PS=tokens_N[:, None] * share[1:3],
            other_P=tokens_N * share[3],
            unique_target=UNIQUE[0],
            unique_sources=np.array(UNIQUE[1:3]),
            unique_other=UNIQUE[3],
        )
        for seed in range(seeds):
            loss_N = law.loss(at) * np.exp(random.normal(0, sigma, 4))
            one = folder / f"{arm.name}-{seed}".replace(" ", "_").replace(",", "")
            one.mkdir(parents=True)
            lines = [
                {"step": step, "heldout_bpb_ko_average": loss}
                | {f"epochs_{k}": n * s / u for k, s, u in zip(LABELS, share, UNIQUE, strict=True)}
                | {f"unique_tokens_{k}": u for k, u in zip(LABELS, UNIQUE, strict=True)}
                for step, loss, n in zip((30, 90, 150, 300), loss_N, tokens_N, strict=True)
            ]
            (one / "metrics.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
            axes = {"arm": arm.name, "seed": seed}
            record = {"status": "ok", "diverged_step": None, "steps": 300, "seconds": 1.0}
            values_of = {"heldout_bpb": float(loss_N[-1])}
            (one / "result.json").write_text(
                json.dumps(record | {"axes": axes, "values": values_of})
            )
            of_run = {"axes": axes, "config": json.loads(config.to_json(cfg))}
            (one / "run.json").write_text(json.dumps(of_run))
            made.append(results.load(one))
    return made


def claim(found, words):
    (one,) = [one for one in found if words in one.question]
    return one


def test_points_are_tokens_of_each_source(tmp_path):
    runs = fabricated(tmp_path)
    data = table.read(runs)
    assert len(data.loss_P) == 4 * len(runs) and data.state == "constant rate, average"
    even = data.part(data.mix_P == verdict.HELD_MIX)
    np.testing.assert_allclose(even.points.tokens.sources_PS[:, 0], even.points.tokens.target_P)
    np.testing.assert_allclose(even.points.tokens.unique_target_P, UNIQUE[0])
    sketch = picture.LossOfTokens().draw(runs, canvas.look(runs))
    assert [len(panel.lines) for panel in sketch.figure.axes] == [8] * 4


@pytest.mark.long
def test_languages_are_told_where_there_are_some(tmp_path):
    headline, found = verdict.judge(fabricated(tmp_path, seeds=3))
    assert headline == "The law that knows languages predicts held-out runs better."
    assert claim(found, "Does text of en help").holds is True
    assert claim(found, "Does text of prose help").holds is False
    assert claim(found, "Do both searches").holds is True


@pytest.mark.long
def test_where_all_tokens_are_alike_languages_predict_no_better(tmp_path):
    headline, _ = verdict.judge(fabricated(tmp_path, seeds=3, is_blind=True, sigma=3e-3))
    assert headline != "The law that knows languages predicts held-out runs better."


def test_one_mixture_cannot_be_judged(tmp_path):
    runs = [run for run in fabricated(tmp_path) if run.arm.startswith(("target", "half first"))]
    headline, (one,) = verdict.judge(runs)
    assert headline == "No law can be fitted to these runs."
    assert one.holds is False and "tau_1 (its text has one mixture share" in one.answer


@pytest.mark.parametrize("module", [atlas, atlas_h100])
def test_the_design_has_what_a_law_needs(module):
    """Two shares or more of each source and of the others, without the one that is held out."""
    made = module.experiment()
    runs = [made.base.edited(arm.edits) for arm in made.arms]
    kept = [one for one, arm in zip(runs, made.arms, strict=True) if "even" not in arm.name]
    shares = np.array([one.data.weights for one in kept])
    assert shares.shape[1] == len(made.base.data.paths)
    np.testing.assert_allclose(shares.sum(axis=1), 1.0, rtol=1e-5)
    columns = [shares[:, 1], shares[:, 2], shares[:, 3:].sum(axis=1)]
    assert all(len(np.unique(column[column > 0])) >= 2 for column in columns)
    assert len({table.num_params(one.with_vocab(258).model) for one in runs}) == 4
