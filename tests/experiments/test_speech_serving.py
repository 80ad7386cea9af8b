"""Slack against first come: the experiment whole in a short time, and data on which claims flip."""

import dataclasses

import pytest

from experiments import speech_serving
from experiments.speech_serving import verdict
from kanana_jax.report import results

pytestmark = pytest.mark.slow

SHORT = {"listeners": (4, 24), "seeds": 3, "seconds": 8.0, "width": 8}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Of the experiment with few listeners, through the function that the command runs."""
    workdir = tmp_path_factory.mktemp("runs")
    speech_serving.run(dataclasses.replace(speech_serving.experiment(), **SHORT), workdir)
    assert "What listeners wait for" in (workdir / "report.html").read_text()
    return [results.load(path.parent) for path in sorted(workdir.glob("*/result.json"))]


def claims(runs):
    """By the first word that tells the three apart."""
    words = {"lower": "sooner", "no more often": "steady", "Control": "control"}
    return {
        name: one
        for one in verdict.judge(runs)[1]
        for word, name in words.items()
        if word in one.question
    }


def changed(runs, key, change, **of):
    """With one value of the runs of an arm and a load changed."""
    return [
        dataclasses.replace(run, values=run.values | {key: change(run.values[key])})
        if all(run.axes[name] == value for name, value in of.items())
        else run
        for run in runs
    ]


def test_slack_is_heard_sooner_and_never_waits_longer(runs):
    assert len(runs) == 2 * 2 * 3
    assert {name: one.holds for name, one in claims(runs).items()} == {
        "sooner": True,
        "steady": True,
        "control": True,
    }


def test_a_slack_that_is_no_sooner_is_said(runs):
    late = changed(runs, verdict.TTFA, lambda x: x + 9.0, arm="slack", listeners=24)
    assert claims(late)["sooner"].holds is False
    assert "not sooner at all loads" in verdict.judge(late)[0]


def test_an_underrun_more_is_said(runs):
    worse = changed(runs, verdict.UNDERRUNS, lambda x: x + 999, arm="slack", listeners=24)
    assert claims(worse)["steady"].holds is False
    assert "more often at some load" in verdict.judge(worse)[0]


def test_policies_that_differ_where_all_have_room_are_no_control(runs):
    odd = changed(runs, verdict.TTFA, lambda x: x + 1e-9, arm="slack", listeners=4)
    assert claims(odd)["control"].holds is False


def test_one_policy_decides_nothing(runs):
    headline, found = verdict.judge([run for run in runs if run.arm == "slack"])
    assert headline == "These runs do not tell slack from first come."
    assert [one.holds for one in found] == [None, None, None]
