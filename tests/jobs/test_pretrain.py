"""The pretraining job: its settings as JSON both ways, its source of batches."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from kanana_jax import config, data
from kanana_jax.jobs import pretrain, training


def _content(cfg):
    return json.loads(config.to_json(cfg))


@pytest.mark.parametrize(
    "edits",
    [
        (),
        ("data.paths=a.txt,b.txt", "data.weights=0.5,0.5", "resume.allow=mesh,train.num_steps"),
        ("model.q_lora_rank=8", "execution.scan_layers=false", "execution.accumulation_steps=2"),
        ("optimizer.name=normuon", "optimizer.schedule.name=cosine", "mesh.data=-1"),
    ],
    ids=str,
)
def test_settings_come_back_from_json(cfg, edits):
    made = cfg.edited(edits)
    assert config.from_json(pretrain.Config, _content(made)) == made
    assert type(config.from_json(pretrain.Config, _content(made)).data.paths) is tuple


def test_a_group_that_may_be_missing_comes_back_too(cfg):
    yarn = config.YarnConfig(factor=4.0, original_max_positions=64)
    extended = dataclasses.replace(cfg, model=dataclasses.replace(cfg.model, yarn=yarn))
    found = config.from_json(pretrain.Config, _content(extended))
    assert found == extended and found.model.yarn == yarn
    assert config.from_json(pretrain.Config, _content(cfg)).model.yarn is None


def test_what_json_leaves_out_has_its_default(cfg):
    content = _content(cfg)
    del content["guard"], content["optimizer"]["tau"]
    found = config.from_json(pretrain.Config, content)
    assert found.guard == config.GuardConfig()
    assert found.optimizer == dataclasses.replace(cfg.optimizer, tau=config.OptimizerConfig().tau)


@pytest.mark.parametrize(
    ("group", "content", "message"),
    [
        ("train", {"num_step": 3}, r"TrainConfig has no num_step; it has num_steps, "),
        (None, {"trian": {}}, r"Config has no trian; it has name, question, "),
        ("optimizer", {"lr": "fast"}, r"optimizer.lr must be of type float, got 'fast'"),
        ("optimizer", {"lr": -1.0}, r"optimizer.lr must lie in"),
        ("model", {"yarn": {"factor": 4.0}}, r"YarnConfig: .*original_max_positions"),
        ("data", {"paths": [1]}, r"data.paths\[0\] must be of type str"),
    ],
)
def test_content_that_is_of_no_such_settings_is_refused(cfg, group, content, message):
    whole = _content(cfg)
    (whole if group is None else whole[group]).update(content)
    with pytest.raises(config.ConfigError, match=message):
        config.from_json(pretrain.Config, whole)


def test_a_setting_without_default_must_be_there(cfg):
    content = _content(cfg)
    del content["model"]["hidden_size"]
    with pytest.raises(config.ConfigError, match=r"ModelConfig: .*hidden_size"):
        config.from_json(pretrain.Config, content)


def test_batches_are_a_function_of_their_number(cfg, corpus):
    """Whatever was asked for before: the loop may go back and leave batches out."""
    source = pretrain.TextSource(corpus, cfg.data, training.data_stages(cfg))
    assert source.fingerprint == corpus.fingerprint
    for number in (0, 1, 2, 7, 3, 3):
        wanted = data.train_batch(corpus, cfg.data, number)
        jax.tree.map(np.testing.assert_array_equal, source.batch(number, None), wanted)


def test_a_process_loads_its_own_rows(cfg, corpus):
    source = pretrain.TextSource(
        corpus, cfg.data, training.data_stages(cfg, lambda batch_size: [1, 5])
    )
    whole = data.train_batch(corpus, cfg.data, 4)
    found = source.batch(4, None)
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(x, y[[1, 5]]), found, whole)
