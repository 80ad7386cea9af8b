"""Reinforcement learning of a model that has learned nothing, from the file to the report."""

import dataclasses
import typing

import numpy as np
import pytest
import tiny_jobs

from kanana_jax import config
from kanana_jax.jobs import rl, rl_losses
from kanana_jax.report import metrics, results
from kanana_jax.rollouts import store

FAMILY = "chain_sum@3"


@pytest.fixture(scope="module")
def cfg(tmp_path_factory) -> rl.Config:
    folder = tmp_path_factory.mktemp("data")
    path = tiny_jobs.write_solved(folder / "conversations.jsonl", FAMILY)
    data = config.DataConfig(
        paths=(str(path),), seq_len=64, batch_size=16, heldout_fraction=0.2,
        cache_dir=str(folder / "cache"),
    )  # fmt: skip
    rollouts = config.RolloutConfig(
        families=(FAMILY,), allow=("chain_sum",), languages=("en",), num_prompts=2,
        num_samples=4, max_tokens=6, max_turns=1, num_rows=4,
    )  # fmt: skip
    base = tiny_jobs.pretraining(path, data=data, mesh=config.MeshConfig())
    fields = {f.name: getattr(base, f.name) for f in dataclasses.fields(config.TrainingConfig)}
    train = dataclasses.replace(rl.Config.__dataclass_fields__["train"].default, **{
        name: getattr(base.train, name) for name in ("eval_batches", "diagnostics_interval_steps")
    })  # fmt: skip
    made = rl.Config(
        **fields | {"train": train},
        rl=config.RLConfig(
            rollouts=rollouts,
            reward="random",
            epochs=2,
            stored_share=0.5,
            tokens_per_round=4,
            measures_routing=False,
        ),
    )
    return made.edited(
        ["train.num_steps=8", "train.eval_interval_steps=8", "train.checkpoint_interval_steps=1"]
    )


def _recorded(directory):
    columns = metrics.read_metrics(directory / "run" / metrics.METRICS_NAME)
    return {
        name: column.values_N
        for name, column in columns.items()
        if not name.startswith(("seconds", "goodput", "tokens_per", "model_tflops", "time"))
    }


@pytest.fixture(scope="module")
def unbroken(cfg, tmp_path_factory):
    directory = tmp_path_factory.mktemp("unbroken")
    rl.run(cfg, directory)
    return directory


@pytest.mark.long
def test_a_run_that_was_stopped_in_a_round_ends_as_one_that_was_not(cfg, unbroken, tmp_path):
    class Stop(Exception):
        pass

    cut, read = tmp_path / "cut", store.read
    with pytest.MonkeyPatch.context() as patch:
        # The process ends as it asks for the second round, and then in the middle of the third.
        for asked in (1, 2):

            def dies(directory, number, last=asked):
                if number == last:
                    raise Stop
                return read(directory, number)

            patch.setattr(store, "read", dies)
            with pytest.raises(Stop):
                rl.run(cfg, cut)
        patch.setattr(store, "read", read)
        rl.run(cfg, cut)
    wanted, found = _recorded(unbroken), _recorded(cut)
    assert wanted.keys() == found.keys()
    for name in wanted:
        np.testing.assert_array_equal(wanted[name], found[name], err_msg=name)
    for number in range(4):
        for ending in ("json", "jsonl", "rest"):
            name = f"run/rounds/{number:04d}.{ending}"
            assert (unbroken / name).read_bytes() == (cut / name).read_bytes()


@pytest.mark.long
def test_rounds_say_how_tokens_were_drawn_and_the_report_what_came_of_them(unbroken):
    rounds = [store.read(unbroken / "run", number) for number in range(4)]
    # Answers take two rounds of 4 tokens, or end before.
    assert rounds[0].figures["waiting_groups"] > 0
    versions = {
        one for found in rounds for try_ in found.examples for one in try_.about["versions"]
    }
    assert versions >= {0, 1}
    for found in rounds:
        assert found.figures.get("resumed_share", 1.0) == 1.0
        for one in found.examples:
            (segment,) = one.segments
            drawn = np.asarray(segment.origins) == 2
            columns = {name: np.asarray(x) for name, x in segment.columns.items()}
            assert (columns["sampler"][drawn] < 0).all() and not columns["sampler"][~drawn].any()
            assert len(segment.routes) == len(segment.ids) - 1
    run = results.load(unbroken / "run")
    assert run.status == "ok" and np.isfinite(run.value("round_success"))
    assert "What the tries of a round were" in (unbroken / "report.html").read_text()


@pytest.mark.parametrize("loss", typing.get_args(typing.get_type_hints(config.RLConfig)["loss"]))
def test_every_loss_has_an_objective_and_advantages(cfg, loss):
    own = dataclasses.replace(cfg.rl, loss=loss)
    assert (rl_losses.estimate(own) is None) == (rl_losses.objective(own).critic is not None)


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        ("rl.loss=ppo", "model.scalar_head=true"),
        ("rl.reward=pay", "a reward among truth"),
        ("rl.rollouts.num_prompts=3", "must fill batches"),
        ("train.router_bias_rate=0.001", "router_bias_rate must be 0"),
        ("rl.kl=loss_k2", "kl_weight"),
        ("rl.stored_weight=0", "stored_share is 0.5"),
        ("rl.loss=squared_token,rl.correction=tis", "correction"),
    ],
)
def test_settings_that_do_not_fit_are_refused(cfg, edit, words):
    with pytest.raises(config.ConfigError, match=words):
        cfg.edited(edit.split(","))


@pytest.mark.long
@pytest.mark.parametrize(
    "edits",
    [
        ("rl.loss=ppo", "model.scalar_head=true", "rl.kl=reward_k1", "rl.kl_weight=0.1"),
        ("rl.loss=squared", "rl.kl=loss_k2", "rl.kl_weight=0.01", "rl.routing=trainer"),
        ("rl.loss=squared_token", "rl.rollouts.temperature=1.2", "rl.routing=live"),
        ("rl.loss=gspo", "rl.correction=icepop", "rl.reward=format", "rl.drop_equal=true"),
        ("rl.measures_routing=true", "rl.rollouts.compute_dtype=bfloat16"),
    ],
)
def test_other_settings_train_too(cfg, edits, tmp_path):
    rl.run(cfg.edited(list(edits)), tmp_path / "work")
    assert results.load(tmp_path / "work" / "run").status == "ok"
