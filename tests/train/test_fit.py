"""The loop, from the corpus to the result: resuming, records, divergence."""

import functools
import math

import jax
import numpy as np
import pytest
import tiny_jobs

from kanana_jax.jobs import pretrain
from kanana_jax.report import metrics, results, tables
from kanana_jax.train import fit

# 256 tokens a step: averages after steps 3, 5, 8, 10 and 12.
AVERAGED_STEPS = (3, 5, 8, 10, 12)


@pytest.fixture
def cfg(text_file):
    return tiny_jobs.pretraining(text_file).edited(["train.average.every_tokens=600"])


def _assert_same_columns(found, wanted):
    assert found.keys() == wanted.keys()
    for name in tiny_jobs.untimed(wanted):
        for one, other in zip(found[name], wanted[name], strict=True):
            np.testing.assert_array_equal(one, other, err_msg=name)


def test_a_resumed_run_equals_an_unbroken_one_bit_for_bit(cfg, corpus, tmp_path):
    built = tiny_jobs.build(cfg)
    unbroken = tiny_jobs.train(cfg, corpus, tmp_path / "unbroken", built)
    broken = tmp_path / "broken"
    with pytest.raises(tiny_jobs.Killed):
        tiny_jobs.train(cfg, corpus, broken, built, bar=tiny_jobs.KillingBar(7))
    # The metrics are ahead of the checkpoint of step 4, and are recorded again.
    assert metrics.read_metrics(broken / metrics.METRICS_NAME)["loss"].steps_N[-1] == 7
    assert not (broken / results.RESULT_NAME).exists()
    _assert_same_columns(tiny_jobs.train(cfg, corpus, broken, built), unbroken)
    found, wanted = (results.load(tmp_path / name) for name in ("broken", "unbroken"))
    assert tiny_jobs.untimed(dict(found.values)) == tiny_jobs.untimed(dict(wanted.values))


def test_a_run_records_what_the_report_needs(cfg, corpus, tmp_path):
    columns = tiny_jobs.train(cfg, corpus, tmp_path, tiny_jobs.build(cfg))
    every_step = {"loss", "max_logit", "max_logits", "clip_count", "min_gamma", "grad_rms", "lr"}
    for name in every_step:
        np.testing.assert_array_equal(columns[name].steps_N, np.arange(1, 13), err_msg=name)
    np.testing.assert_array_equal(columns["heldout_bpb"].steps_N, [4, 8, 12])
    # Arms are compared by the losses of single sequences at the end.
    np.testing.assert_array_equal(columns["heldout_nats"].steps_N, [12])
    heldout = results.load(tmp_path).heldout
    assert heldout is not None
    bpb = heldout.nats_S.sum() / heldout.bytes_S.sum() / math.log(2)
    assert columns["heldout_bpb"].values_N[-1] == pytest.approx(bpb, rel=1e-12)
    np.testing.assert_array_equal(columns["qk_spectral_norm"].steps_N, [6, 12])
    assert columns["max_logits"].values_N.shape == (12, 1, 4)
    assert columns["loss"].values_N[-1] < columns["loss"].values_N[0]


def test_averaged_weights_are_measured_beside_the_newest(cfg, corpus, tmp_path):
    built, states, params = tiny_jobs.build(cfg), [], []

    def update(state, batch, lr, frozen):
        params.append(jax.device_get(state.weights.params))
        state, record = built.steps.train(state, batch, lr, frozen)
        states[:] = [state]  # those before are donated
        return state, record

    columns = tiny_jobs.train(cfg, corpus, tmp_path, built, update=update)
    (last,) = states
    params.append(jax.device_get(last.weights.params))
    expected = params[0]
    for step in AVERAGED_STEPS:
        expected = jax.tree.map(lambda a, w: 0.6 * a + 0.4 * w, expected, params[step])
    found = fit.averaged(last)
    assert_close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-7)
    jax.tree.map(assert_close, found.params, expected)
    assert found.buffers is last.weights.buffers

    (evaluator,) = pretrain.JOB.evaluators(corpus, cfg.data, cfg.train, built)
    measured, result = evaluator.measure(found), results.load(tmp_path)
    for name, key in (
        ("heldout_bpb", "heldout_bpb_average"),
        ("heldout_bpb_stderr", "heldout_bpb_average_stderr"),
    ):
        np.testing.assert_array_equal(columns[key].steps_N, [4, 8, 12])
        assert measured[name] == columns[key].values_N[-1] == result.values[key]
    assert measured["heldout_bpb"] != result.values["heldout_bpb"]
    # The sequences of a comparison are those of the newest weights.
    assert not {"heldout_nats_average", "heldout_bytes_average"} & columns.keys()
    (column,) = [x for x in tables.value_columns([result]) if x.heading == "heldout bpb average"]
    (cell,) = tables.summarize([result])
    value, error = measured["heldout_bpb"], measured["heldout_bpb_stderr"]
    assert column.words(cell) == f"{value:.4g} +- {error:.2g}"


def test_the_time_of_a_run_adds_up(cfg, corpus, tmp_path):
    """Every second is training or one of the overheads, which only grow."""
    columns = tiny_jobs.train(cfg, corpus, tmp_path, tiny_jobs.build(cfg))
    overheads = [name for name in columns if name.startswith("seconds_")]
    assert {"seconds_evaluating", "seconds_saving", "seconds_waiting_for_data"} < {*overheads}
    seconds_N = columns["seconds"].values_N
    spent_N = sum(columns[name].values_N for name in overheads)
    training_N = columns["goodput"].values_N * seconds_N
    np.testing.assert_allclose(training_N + spent_N, seconds_N, rtol=1e-9)
    assert np.all(training_N > 0)
    for name in ("seconds", *overheads):
        assert np.all(np.diff(columns[name].values_N) >= 0), name
    values = results.load(tmp_path).values
    for name in ("goodput", *overheads):
        assert values[name] == columns[name].values_N[-1], name
    assert values["tokens_per_second"] == np.median(columns["tokens_per_second"].values_N)
    assert columns["seconds_evaluating"].values_N[-1] > 0
    assert columns["seconds_saving"].values_N[-1] > 0


@pytest.mark.long
def test_a_run_that_becomes_nan_is_recorded_and_stops(cfg, corpus, tmp_path):
    cfg = cfg.edited(["guard.enabled=false"])
    built = tiny_jobs.build(cfg)

    def poisoned(state, batch, lr, frozen):
        state, record = built.steps.train(state, batch, lr, frozen)
        return state, record | {"loss": record["loss"] + (np.nan if state.step == 5 else 0.0)}

    columns = tiny_jobs.train(cfg, corpus, tmp_path, built, update=poisoned)
    result = results.load(tmp_path)
    assert (result.status, result.diverged_step) == ("diverged", 5)
    assert columns["loss"].steps_N[-1] == 5


@pytest.mark.long
def test_a_loss_above_its_start_counts_as_diverged(cfg, corpus, tmp_path):
    cfg = cfg.edited(["optimizer.name=adamw", "optimizer.lr=30"])
    tiny_jobs.train(cfg, corpus, tmp_path, tiny_jobs.build(cfg))
    assert results.load(tmp_path).diverged


def test_going_back_twice_to_one_checkpoint_leaves_more_data_out():
    good = fit.Position(state=None, step=8)
    once = fit.rewound(good, good, trouble_step=13)
    twice = fit.rewound(once, good, trouble_step=12)
    assert once == good._replace(skipped_batches=5, rewinds=1)
    # Step 12 of the second try read batch 17: step 9 of the third reads batch 18.
    assert twice == good._replace(skipped_batches=9, rewinds=2)
