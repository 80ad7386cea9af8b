"""A model that has learnt its problems by heart solves these, wherever its weights lie."""

import dataclasses

import jax
import numpy as np
import pytest
import tiny_jobs

from kanana_jax import config, parallel
from kanana_jax.batch import Batch
from kanana_jax.data import tokenizer
from kanana_jax.generate import decoder
from kanana_jax.jobs import solving, training
from kanana_jax.rollouts import tasks
from kanana_jax.train import step_functions

pytestmark = pytest.mark.slow

BYTES = tokenizer.byte_tokenizer()
FAMILIES = [tasks.FAMILIES[name] for name in ("letters", "chain_sum")]
PROBLEMS = tasks.mixed(FAMILIES, tasks.LANGUAGES, seed=0, count=8, heldout=False, sizes=[3])
LEARNT = [PROBLEMS[number] for number in (0, 1, 2, 3)]  # the third without its trace
SEQ_LEN = 64


def _batch():
    """A row for each problem that is learnt; padding counts for nothing."""
    tokens = np.zeros((len(LEARNT), SEQ_LEN + 1), np.int32)
    mask = np.zeros((len(LEARNT), SEQ_LEN), np.float32)
    for row, problem in enumerate(LEARNT):
        text = tasks.document(problem, with_trace=row != 2)
        (ids,) = BYTES.encode_documents([text.encode()])
        tokens[row, : len(ids)] = ids
        mask[row, : len(ids) - 1] = 1
    return Batch.of_tokens(tokens)._replace(loss_mask=mask)


@pytest.fixture(scope="module")
def learnt(tmp_path_factory):
    """Settings, the compiled functions and the weights after training, on one device."""
    text = tmp_path_factory.mktemp("text") / "unused.txt"
    cfg = tiny_jobs.pretraining(text)
    cfg = dataclasses.replace(
        cfg,
        data=dataclasses.replace(cfg.data, seq_len=SEQ_LEN, batch_size=len(LEARNT)),
        train=dataclasses.replace(cfg.train, num_steps=160),
    )
    built = tiny_jobs.build(cfg)
    state, batch = built.steps.init(0), built.place(_batch(), len(LEARNT))
    for step in range(cfg.train.num_steps):
        rate = 0.02 * (1 - step / cfg.train.num_steps)  # at a constant rate the end is random
        state, metrics = built.steps.train(state, batch, rate, {})
    assert float(metrics["loss"]) < 0.05
    return cfg, built, state.weights


def _measured(built, weights, problems=LEARNT, max_tokens=24):
    # Fewer rows than problems, so that some of them wait.
    evaluator = solving.accuracy(problems, BYTES, 7, built, num_rows=3, max_tokens=max_tokens)
    assert (evaluator.name, evaluator.every) == ("heldout_accuracy", 7)
    return evaluator.measure(weights)


@pytest.mark.long
def test_what_was_learnt_by_heart_is_solved(learnt):
    _, built, weights = learnt
    found = _measured(built, weights)
    assert (
        found["heldout_accuracy"]
        == found["heldout_accuracy_en"]
        == found["heldout_accuracy_ko"]
        == 1
    )
    assert found["heldout_trace_accuracy"] == found["heldout_trace_share"] == 3 / 4


@pytest.mark.long
def test_what_is_not_the_answer_is_not_right(learnt):
    """Of four problems two have another answer now, and one other numbers."""
    _, built, weights = learnt
    one, two, three, four = LEARNT
    others = [
        dataclasses.replace(one, answer="9"),
        two,
        dataclasses.replace(three, answer="9"),
        dataclasses.replace(four, numbers=(4, 4, 4)),
    ]
    found = _measured(built, weights, others)
    assert (
        found["heldout_accuracy"],
        found["heldout_trace_share"],
        found["heldout_trace_accuracy"],
    ) == (
        2 / 4,
        3 / 4,
        2 / 4,
    )


@pytest.mark.long
def test_an_answer_that_is_cut_off_is_none(learnt):
    _, built, weights = learnt
    found = _measured(built, weights, max_tokens=3)
    assert (
        found["heldout_trace_accuracy"] == 0 and found["heldout_accuracy"] == 1 / 4
    )  # that without a trace


@pytest.mark.long
def test_weights_on_several_devices_solve_the_same(learnt):
    cfg, built, weights = learnt
    on = dataclasses.replace(cfg, mesh=config.MeshConfig(data=2, fsdp=2, expert=2))
    mesh = parallel.make_mesh(on.mesh)
    step = tiny_jobs.step_config(on)
    steps = step_functions.build(step, mesh)
    spread = jax.tree.map(
        lambda x, like: jax.device_put(np.asarray(x), like.sharding), weights, steps.like.weights
    )
    assert len(spread.params["embed"].sharding.device_set) == 8
    several = training.Built(mesh, steps, step.objective)
    assert _measured(several, spread) == _measured(built, weights)


@pytest.mark.long
def test_runs_of_a_comparison_compile_once(learnt):
    _, built, weights = learnt
    _measured(built, weights)
    sizes = [fn._cache_size() for fn in (decoder.prefill, decoder.draw)]
    again = built._replace(steps=built.steps._replace(cfg=dataclasses.replace(built.steps.cfg)))
    _measured(again, jax.tree.map(lambda x: x + 0.0, weights))
    assert [fn._cache_size() for fn in (decoder.prefill, decoder.draw)] == sizes


def test_shares_have_their_standard_errors():
    right = [True, True, True, False, True, False, True, False]
    outcomes = [
        solving.Outcome(one, has_trace=number < 6, trace_follows=number < 2)
        for number, one in enumerate(right)
    ]
    found = solving.summarize(PROBLEMS, outcomes)
    by_language = {name: [] for name in tasks.LANGUAGES}
    for problem, one in zip(PROBLEMS, right, strict=True):
        by_language[problem.language].append(one)
    shares = {
        "heldout_accuracy": right,
        "heldout_accuracy_en": by_language["en"],
        "heldout_accuracy_ko": by_language["ko"],
        "heldout_trace_share": [True] * 6 + [False] * 2,
        "heldout_trace_accuracy": [True] * 2 + [False] * 6,
    }
    for key, holds in shares.items():
        np.testing.assert_allclose(found[key], np.mean(holds))
        np.testing.assert_allclose(
            found[f"{key}_stderr"], np.std(holds, ddof=1) / len(holds) ** 0.5, err_msg=key
        )
    assert {"heldout_accuracy_letters", "heldout_accuracy_chain_sum"} < set(found)


def test_shares_of_one_kind_are_not_given_twice():
    (one,) = tasks.mixed(FAMILIES[:1], ["ko"], seed=0, count=1, heldout=True)
    found = solving.summarize([one], [solving.Outcome(True, True, False)])
    assert set(found) - {"heldout_constant_accuracy"} == {
        f"{key}{end}"
        for key in ("heldout_accuracy", "heldout_trace_share", "heldout_trace_accuracy")
        for end in ("", "_stderr")
    }
    assert found["heldout_accuracy"] == 1 and np.isnan(found["heldout_accuracy_stderr"])


@pytest.mark.long
def test_no_problems_are_refused(learnt):
    _, built, _ = learnt
    with pytest.raises(config.ConfigError, match="expected problems"):
        solving.accuracy([], BYTES, 1, built)
