import pytest

from kanana_jax.jobs import pass_rates
from kanana_jax.rollouts.environments import drawing, families
from kanana_jax.rollouts.episodes import Episode

TASKS = drawing.tasks_of([families.of("letters")], ["en"], seed=0, count=8, heldout=True)


def _try(task, reward, *, reasoned=False, num_drawn=2, end="answered"):
    said = {"role": "assistant", "content": "1"}
    return Episode(
        task=task,
        seed=0,
        ids=(0,) * (1 + num_drawn),
        origins=(1, *[2] * num_drawn),
        logps=(0.0,) * (1 + num_drawn),
        versions=(0,) * (1 + num_drawn),
        messages=({**said, "reasoning_content": "b:0"} if reasoned else said,),
        end=end,
        reward=reward,
        parts={"trace": 0.5 * reasoned},
    )


def test_figures_are_those_of_all_tries():
    groups = [
        [_try(task, float(k < right), reasoned=k == 0, num_drawn=1 + k) for k in range(4)]
        for task, right in zip(TASKS, [0, 1, 2, 4, 0, 0, 4, 1], strict=True)
    ]
    found = pass_rates.summarize(groups)
    assert found["pass@1"] == pytest.approx(12 / 32)
    assert found["pass@4"] == pytest.approx(5 / 8)
    assert (found["reasoned"], found["trace"]) == (0.25, 0.125)
    assert (found["drawn_tokens"], found["over_length"]) == (2.5, 0.0)
    answers = [task.oracle[-1]["content"] for task in TASKS]
    assert found["constant"] == max(map(answers.count, answers)) / 8
    assert found["pass@1_stderr"] > 0


def test_tries_that_were_cut_are_told():
    groups = [[_try(task, 0.0, end="length"), _try(task, 1.0)] for task in TASKS]
    assert pass_rates.summarize(groups)["over_length"] == 0.5
