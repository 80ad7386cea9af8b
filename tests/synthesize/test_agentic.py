"""Agentic synthesis against a scripted endpoint: goals, rules, replay, resuming, its readers."""

import asyncio
import dataclasses
import functools
import json
import re

import pytest
import scripted_endpoint
from scripted_endpoint import Endpoint, completion, reply

from experiments.agentic import script
from kanana_jax import config
from kanana_jax.data import conversations
from kanana_jax.rollouts import grading, task, tools
from kanana_jax.rollouts.environments import drawing, families, table_specs, tables
from kanana_jax.rollouts.tasks import problem
from kanana_jax.synthesize.agentic import __main__ as command
from kanana_jax.synthesize.agentic import family, filters, goals, playing, running, seeds, tasks
from kanana_jax.synthesize.agentic.playing import Limits
from kanana_jax.synthesize.agentic.tasks import Settings, UnusableError
from kanana_jax.synthesize.records import Records
from kanana_jax.synthesize.replies import EndpointError

MODEL = Settings(model="m")
PLAN = running.Plan(
    author=MODEL, agent=MODEL, topics=script.TOPICS[:2], num_agents=1, num_tasks=5, failing=0.2
)
NAMES = "conversations.jsonl", "tasks.jsonl", "left_out.jsonl", "report.json"


def _answered(model, body, times):
    text, calls = model.said(body)
    return reply(completion(text, **({"tool_calls": calls} if calls else {})))


def _run(out, answer, plan=PLAN):
    async def run():
        with Records(out / "answers.jsonl") as records:
            async with (
                Endpoint(answer) as endpoint,
                scripted_endpoint.client(endpoint, records, attempts=2) as client,
            ):
                return await running.run(client.ask, plan, out), len(endpoint.asked)

    return asyncio.run(run())


def _lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run's folder and report; its agent does nothing in a third of its conversations."""
    out = tmp_path_factory.mktemp("agentic")
    report, _ = _run(out, functools.partial(_answered, script.Model(0.33)))
    return out, report


def test_every_conversation_replays_to_its_goal_in_a_fresh_simulator(made):
    out, report = made
    kept, about = _lines(out / "conversations.jsonl"), _lines(out / "tasks.jsonl")
    assert report["conversations"] == len(kept) == len(about) > 5
    num_failed = 0
    for one, of in zip(kept, about, strict=True):
        assert one["about"]["task"] == of["id"]
        spec = table_specs.from_json(of["spec"])
        state = spec.state(of["seed"], of["failing"])
        results, after = filters.replay(state, spec.tools, one["messages"])
        assert results == [said for said in one["messages"] if said["role"] == "tool"]
        assert tables.lasting(after) == of["goal"]["tables"]
        assert all(read in after["reads"] for read in of["goal"]["reads"])
        num_failed += sum(result["content"] == tables.BUSY for result in results)
    assert num_failed  # services failed, and agents tried again


def test_every_rejected_one_names_its_rule_and_idle_agents_are_found(made):
    out, report = made
    rejected = _lines(out / "left_out.jsonl")
    known = {*filters.RULES, filters.RUBRIC, "held out", "no goal"}
    assert {one["rule"] for one in rejected} <= known
    assert {"goal state", "not looked up"} & {one["rule"] for one in rejected}
    assert sum(report["left out"].values()) == len(rejected)
    assert report["conversations"] + len(rejected) == 4 * PLAN.num_tasks
    spoken = " ".join(said["content"] for one in _lines(out / "conversations.jsonl")
                      for said in one["messages"])  # fmt: skip
    assert "Done." not in spoken


def test_fine_tuning_reads_them_with_their_tools(made, tmp_path):
    out, report = made
    cfg = config.DataConfig(
        paths=(str(out / "conversations.jsonl"),), seq_len=1024, batch_size=1, heldout_fraction=0.2
    )
    corpus = conversations.read(cfg, tmp_path).open()
    assert len(corpus.examples.is_heldout_N) == report["conversations"]


def test_a_run_that_was_cut_off_goes_on_to_the_same_bytes(made, tmp_path):
    out, _ = made
    model, num_ended, num_asked = script.Model(0.33), 0, 0
    while True:
        left = iter(range(40))

        def answer(body, times, left=left):
            is_there = next(left, None) is not None
            return _answered(model, body, times) if is_there else reply(b"gone", 404)

        try:
            num_asked += _run(tmp_path, answer)[1]
            break
        except EndpointError:
            num_ended += 1
            path = tmp_path / "answers.jsonl"
            path.write_bytes(path.read_bytes()[:-5])
    assert num_ended > 2
    for name in NAMES:
        assert (tmp_path / name).read_bytes() == (out / name).read_bytes()
    _, num_asked = _run(tmp_path, functools.partial(_answered, model))
    assert num_asked == 0


@pytest.mark.parametrize(
    ("system", "said", "rule"),
    [
        ("You design", "no JSON here", "specification: unreadable"),
        ("You design", '{"name": "x"}', "specification: bad specification"),
        ("You write system", '{"prompt": "p", "tools": ["no", "such"]}', "agent: bad choice"),
        ("You write what", '{"need": "Do it.", "rubric": ["r"]}', "value missing in the need"),
        ("You write what", '{"need": "Do it."}', "conversation: unreadable"),
        ("You play", "Hello.", "conversation: no end"),
        ("You judge", '{"scores": [0]}', "conversation: rubric"),
        ("You judge", '{"scores": [2]}', "conversation: unreadable"),
        ("You judge", "", "conversation: no answer"),
    ],
)
def test_what_a_model_gets_wrong_is_left_out_by_name(system, said, rule, tmp_path):
    model = script.Model(0.0)

    def answer(body, times):
        is_meant = body["messages"][0]["content"].startswith(system)
        return reply(completion(said)) if is_meant else _answered(model, body, times)

    plan = dataclasses.replace(PLAN, topics=script.TOPICS[:1], num_tasks=2, failing=0.0)
    report, _ = _run(tmp_path, answer, plan)
    assert any(rule in one for one in report["left out"])
    # Conversations about the seeds' specifications need no designed ones.
    assert (report["conversations"] > 0) == (system == "You design")


@pytest.fixture(scope="module")
def played():
    """A conversation about three calls, two of which look something up."""
    spec = goals.varied(seeds.specs()[0], 5)
    agent = tasks.Agent(spec=spec, prompt="Help.", tools=tuple(spec.tools))
    goal = next(
        goal
        for seed in range(1000)
        if (goal := goals.drawn(spec, agent.tools, 3, seed))
        and len(goal.reads) == 2
        and goal.tables != spec.rows
    )
    one = tasks.Task(
        id="t", agent=agent, goal=goal, persona="p", need=family.words(goal), rubric=("r",),
        failing=0.0, seed=1,
    )  # fmt: skip
    model = script.Model(0.0)
    found = asyncio.run(playing.play(model, MODEL, MODEL, one, Limits()))
    filters.expect_good(found)
    return found


def _changed(played, place, **fields):
    messages = [dict(one) for one in played.messages]
    messages[place] |= fields
    return dataclasses.replace(played, messages=tuple(messages))


def _rule(played):
    with pytest.raises(UnusableError) as broken:
        filters.expect_good(played)
    return broken.value.rule


def test_each_rule_finds_what_it_is_about(played):
    state = played.state
    assert _rule(dataclasses.replace(played, end="turns")) == "no end"
    changed = {**state, "tables": played.task.agent.spec.rows}
    assert _rule(dataclasses.replace(played, state=changed)) == "goal state"
    assert _rule(dataclasses.replace(played, state={**state, "reads": []})) == "not looked up"
    assert _rule(_changed(played, -1, content="All done.")) == "not told"
    assert _rule(_changed(played, 2, tool_calls=played.messages[2]["tool_calls"] * 9)) == (
        "too many calls"
    )
    assert _rule(_changed(played, 1, content='{"name": "lend"}')) == "user out of role"
    place = next(n for n, one in enumerate(played.messages) if one["role"] == "tool")
    assert _rule(_changed(played, place, content="something else")) == "no replay"


def test_an_agent_that_never_answers_and_calls_that_cannot_be_read_end_it(played):
    model = script.Model(0.0)

    async def restless(request):
        answer = await model(request)
        is_agent = "tools" in request.more
        return (
            answer._replace(tool_calls=[tools.call("where", book="Emma")]) if is_agent else answer
        )

    async def broken(request):
        answer = await model(request)
        is_agent = "tools" in request.more
        return answer._replace(tool_calls=[{"function": "where"}]) if is_agent else answer

    ends = [
        asyncio.run(playing.play(one, MODEL, MODEL, played.task, Limits())).end
        for one in (restless, broken)
    ]
    assert ends == ["calls", "malformed"]


def test_goals_are_reached_by_their_calls_and_the_same_for_a_seed():
    for spec in seeds.specs():
        for seed in range(30):
            varied = goals.varied(spec, seed)
            goal = goals.drawn(varied, tuple(spec.tools), 2, seed)
            results, after = tools.run(varied.tools, varied.state(), goal.calls)
            assert not any(one["content"].startswith("error: ") for one in results)
            assert tables.lasting(after) == goal.tables and len(goal.calls) == 2
            assert goal == goals.drawn(varied, tuple(spec.tools), 2, seed)
        assert goals.varied(spec, 1).rows != goals.varied(spec, 2).rows


def test_words_must_have_each_value_as_a_word_of_its_own():
    assert tasks.says("Lend Emma, 2.", "2") and tasks.says("lend emma", "Emma")
    assert not tasks.says("Lend Emma, 12.", "2") and not tasks.says("Emmas", "Emma")


@pytest.mark.parametrize("name", ["LIBRARY", "STABLE"])
def test_tasks_of_the_family_pay_their_oracles_and_not_those_who_do_nothing(name):
    of = families.of(f"{family.PREFIX}:{name}")
    drawn = drawing.tasks_of([of], ("en",), seed=0, count=12, heldout=True)
    for one in drawn:
        state = one.state
        for said in one.oracle:
            _, state = tools.run(of.tools, state, said.get("tool_calls", ()))
        assert grading.score(grading.Reply(task=one, messages=one.oracle, state=state)).reward == 1
        idle = [task.assistant("Done.")]
        assert grading.score(grading.Reply(task=one, messages=idle, state=one.state)).reward == 0
        assert problem.is_heldout_content(one.content)


FLAGS = ["--endpoint=http://127.0.0.1:9/v1", "--model=m"]


@pytest.mark.parametrize(
    ("flag", "wanted"),
    [
        ("--sizes=1,x", "--sizes must be numbers from 1 to 10, got '1,x'"),
        ("--sizes=11", "--sizes must be"),
        ("--failing=1", r"--failing must lie in \[0, 1\), got 1.0"),
        ("--tasks=0", "--tasks must be 1 or more, got 0"),
        ("--agent-endpoint=http://127.0.0.1:8/v1", "--agent-endpoint needs --agent-model"),
    ],
)
def test_what_cannot_run_is_refused_before_anything_is_asked(flag, wanted, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        command.main([f"--to={tmp_path / 'out'}", *FLAGS, flag])
    assert ended.value.code == 2
    assert re.search(wanted, capsys.readouterr().err)
    assert not (tmp_path / "out").exists()


def test_the_command_asks_author_and_agent_where_they_are(tmp_path, capsys):
    model = script.Model(0.0)
    models: dict[str, set[str]] = {}

    def answer(name, body, times):
        models.setdefault(name, set()).add(body["model"])
        said, calls = model.said(body)
        more = {"tool_calls": calls} if calls else {}
        return reply(completion(said, model=body["model"], **more))

    async def run():
        async with (
            Endpoint(functools.partial(answer, "first")) as author,
            Endpoint(functools.partial(answer, "second")) as agent,
        ):
            flags = [
                f"--to={tmp_path}", f"--endpoint={author.url}", "--model=m", "--agent-model=a",
                f"--agent-endpoint={agent.url}", "--topics=a bakery", "--agents=1", "--tasks=2",
            ]  # fmt: skip
            await asyncio.to_thread(command.main, flags)

    asyncio.run(run())
    assert models == {"first": {"m"}, "second": {"a"}}
    said = json.loads(capsys.readouterr().out)
    assert said == json.loads((tmp_path / "report.json").read_text())
    assert said["conversations"] > 0


def test_a_dry_run_asks_and_writes_nothing(tmp_path, capsys):
    command.main([f"--to={tmp_path / 'out'}", *FLAGS, "--topics=a,b", "--dry-run"])
    assert capsys.readouterr().out.startswith("at most 32 conversations")
    assert not (tmp_path / "out").exists()
