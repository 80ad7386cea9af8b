"""What a run's folder says of it, so that no other is taken for it."""

import re

import pytest

from kanana_jax import checkpoint, config
from kanana_jax.workdir import run_record

AXES = {"arm": "a", "optimizer.lr": 0.1, "seed": 0}


@pytest.fixture
def one(cfg, tmp_path):
    """A run whose folder says that it was begun and saved once."""
    one = run_record.Run(AXES, cfg, tmp_path / "a")
    run_record.begin(one, cfg.name, "", is_changed=False)
    (one.directory / "metrics.jsonl").write_text('{"step": 1}\n')
    return one


@pytest.mark.parametrize("other", [{"arm": "b"}, {"optimizer.lr": 0.2}, {"seed": 3}], ids=str)
def test_a_folder_of_another_run_is_recognised_by_what_it_says(one, other):
    run_record.check(one, "test", is_changed=False)
    message = r"holds the run of arm 'a', optimizer\.lr 0\.1, seed 0, not that of arm"
    with pytest.raises(config.ConfigError, match=message):
        run_record.check(one._replace(axes=AXES | other), "test", is_changed=False)


def test_a_run_is_labelled_by_its_place_on_the_axes(one):
    assert one.label == "a lr 0.1 seed 0"
    assert one._replace(axes={}).label == ""
    assert one._replace(axes={"model.kv_lora_rank": 16}).label == "kv_lora_rank 16"


def test_a_result_is_dropped_when_its_own_settings_change_and_metrics_are_kept(one):
    result = one.directory / "result.json"
    result.write_text("{}")
    allowed = one.config.edited(["resume.allow=axes"])
    run_record.begin(one._replace(config=allowed), "test", "", is_changed=True)
    moved = one.config.edited(["data.cache_dir=elsewhere"])
    run_record.begin(one._replace(config=moved), "test", "", is_changed=True)
    assert result.exists()
    changed = one.config.edited(["optimizer.tau=9"])
    run_record.begin(one._replace(config=changed), "test", "", is_changed=True)
    assert not result.exists()
    for name in ("metrics.jsonl", "metrics-1.jsonl"):
        assert (one.directory / name).read_text() == '{"step": 1}\n'


def test_lost_checkpoints_are_named_and_restarting_keeps_the_metrics(one):
    run_record.note_saved(one.directory, 8)
    with pytest.raises(checkpoint.NoUsableCheckpointError, match="saved at step 8"):
        run_record.check(one, "test", is_changed=False)
    again = one._replace(config=one.config.edited(["resume.restart=true"]))
    run_record.check(again, "test", is_changed=False)
    run_record.begin(again, "test", "", is_changed=False)
    kept = one.directory / "metrics-1.jsonl"
    assert kept.read_text() == '{"step": 1}\n' and not (one.directory / "metrics.jsonl").exists()
    run_record.check(one, "test", is_changed=False)


def test_checkpoints_ahead_of_the_last_step_are_refused(one):
    (one.directory / "checkpoints" / "12").mkdir(parents=True)
    run_record.check(one, "test", is_changed=False)  # twelve steps are wanted
    fewer = one._replace(config=one.config.edited(["train.num_steps=4"]))
    wanted = re.escape("train.num_steps = 4 is less than the 12 steps")
    with pytest.raises(config.ConfigError, match=wanted):
        run_record.check(fewer, "test", is_changed=True)
