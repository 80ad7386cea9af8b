"""What tries of tasks come to, and the command that measures a folder."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest

from kanana_jax.data import chat
from kanana_jax.evaluate import success, tasks
from kanana_jax.rollouts.environments import drawing, families
from kanana_jax.rollouts.episodes import Episode

TRAINED = Path(__file__).parents[1] / "generate" / "trained"


def _try(reward: float | None, family="products@1", end="answered", num_calls=1, said="1"):
    (task,) = drawing.tasks_of([families.of(family)], ["en"], seed=0, count=1, heldout=True)
    return Episode(
        task=task,
        seed=0,
        ids=(),
        origins=(),
        logps=(),
        versions=(),
        messages=({"role": "assistant", "content": said},),
        end=end,
        num_calls=num_calls,
        reward=reward,
    )


def test_every_family_has_a_success_of_its_own():
    found = success.summarize([_try(1.0), _try(0.0), _try(1.0, "lookup@2")], prefix="heldout_")
    assert found["heldout_success"] == pytest.approx(2 / 3)
    assert found["heldout_success_products"] == 0.5
    assert found["heldout_success_lookup"] == 1.0
    assert "success_products" not in success.summarize([_try(1.0)])


def test_only_tasks_with_tools_count_for_the_rate_of_calls():
    played = [_try(1.0), _try(0.0, num_calls=0), _try(1.0, "lookup@2", num_calls=0)]
    assert success.summarize(played)["tool_call_rate"] == 0.5
    assert "tool_call_rate" not in success.summarize(played[2:])


def test_what_was_cut_off_and_what_was_not_judged_is_told():
    played = [_try(0.0, end="length"), _try(0.0, end="malformed"), _try(None), _try(1.0)]
    found = success.summarize(played)
    assert (found["valid_turns"], found["over_length"], found["ungraded"]) == (0.5, 0.25, 0.25)
    assert found["success"] == 0.25


def test_lengths_are_bytes():
    assert success.summarize([_try(1.0, said="\uc608")])["answer_bytes"] == 3.0


def test_a_pass_is_a_reward_from_the_threshold_on():
    groups = [[_try(1.0), _try(0.5)], [_try(0.5), _try(0.0)]]
    assert success.passes(groups, [1, 2], 1.0)["pass@1"] == 0.25
    assert success.passes(groups, [1, 2], 0.5)["pass@2"] == 1.0


@pytest.fixture
def folder(tmp_path):
    """A small model of bytes with the template of a format of ours."""
    path = tmp_path / "model"
    shutil.copytree(TRAINED, path)
    (path / "chat_template.jinja").write_text(chat.PLAIN.template)
    return path


@pytest.mark.long
def test_the_command_measures_a_folder(folder, tmp_path, capsys):
    out = tmp_path / "found.json"
    tasks.main(
        [
            f"--checkpoint={folder}", "--family=products@1", "--family=lookup@2", "--count=4",
            "--samples=2", "--max-tokens=8", "--max-turns=2", "--length=256", "--batch-size=4",
            f"--out={out}",
        ]
    )  # fmt: skip
    found = json.loads(out.read_text())["found"]
    assert set(found) >= {"success", "success_products", "success_lookup", "pass@1", "constant"}
    assert "pass@8" not in found
    # The model knows none of this. Both lookups are translations of each other, with one answer.
    assert found["success_products"] == 0.0
    assert found["constant"] == 0.5
    assert "pass@1" in capsys.readouterr().out


def test_a_folder_without_a_template_is_refused(folder, capsys):
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(SystemExit) as ended:
        tasks.main([f"--checkpoint={folder}", "--family=products@1"])
    assert ended.value.code == 2
    assert "has no chat template" in capsys.readouterr().err


def test_unknown_families_are_refused(folder, capsys):
    with pytest.raises(SystemExit) as ended:
        tasks.main([f"--checkpoint={folder}", "--family=chess"])
    assert ended.value.code == 2
    assert "expected a family among" in capsys.readouterr().err


def test_levels_that_a_family_has_not_are_refused():
    with pytest.raises(ValueError, match="expected levels of products among"):
        families.of("products@9")
    assert dataclasses.replace(families.of("products@2,3")).levels == (2, 3)
