"""Rephrasing against an endpoint with handwritten rewrites: order, resuming, chunks, problems."""

import asyncio
import dataclasses
import itertools
import json
import re

import planted
import pytest
from scripted_endpoint import FAULTS, Endpoint, completion, reply

from kanana_jax.data.curate.document import of_text
from kanana_jax.synthesize import __main__ as command
from kanana_jax.synthesize import batch, chunks, rephrase, running, styles
from kanana_jax.synthesize.client import Settings as ClientSettings
from kanana_jax.synthesize.replies import EndpointError

PAIRS = planted.faithful("en")
DOCUMENTS = [of_text(source, "test")._replace(language="en") for source, _ in PAIRS]
REWRITES = dict(PAIRS)
SETTINGS = rephrase.Settings(model="m", styles=("wiki",))


def _asked(body):
    return re.search(r"<text>\n(.*)\n</text>", body["messages"][1]["content"], re.DOTALL)[1]


def _run(out, script, documents=DOCUMENTS, settings=SETTINGS):
    async def run():
        async with Endpoint(script) as endpoint:
            client = ClientSettings(
                endpoint=endpoint.url, concurrency=4, attempts=2, backoff_s=0.001, timeout_s=20
            )
            models = {one: client for one in (settings.model, settings.judge) if one}
            report = await running.run(documents, settings, models, out)
            return report, len(endpoint.asked)

    return asyncio.run(run())


def _script(body, times):
    return reply(completion(REWRITES[_asked(body)]))


def _outcome(out):
    return {name: (out / name).read_bytes() for name in ("documents.jsonl", "left_out.jsonl")}


def _lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    out = tmp_path_factory.mktemp("unbroken")
    assert _run(out, _script)[1] == len(PAIRS)
    return out


def test_rewrites_stand_in_the_order_of_their_sources(unbroken):
    found = _lines(unbroken / "documents.jsonl")
    assert [one["text"] for one in found] == [rewrite for _, rewrite in PAIRS]
    assert [one["of"] for one in found] == [one.id for one in DOCUMENTS]
    assert {(one["style"], one["language"]) for one in found} == {("wiki", "en")}
    assert json.loads((unbroken / "report.json").read_text())["usable"] == {"wiki": len(PAIRS)}


def test_a_second_run_asks_nothing_and_writes_the_same(unbroken):
    before = _outcome(unbroken)
    assert _run(unbroken, _script)[1] == 0
    assert _outcome(unbroken) == before


def test_a_run_that_was_cut_off_goes_on_to_the_same_bytes(unbroken, tmp_path):
    """The endpoint ends each run after a few answers; the last record of each is torn, too."""
    num_ended = 0
    while True:
        count = itertools.count()

        def script(body, times, count=count):
            return _script(body, times) if next(count) < 6 else reply(b"gone", 404)

        try:
            _run(tmp_path, script)
            break
        except EndpointError:
            num_ended += 1
            assert not (tmp_path / "documents.jsonl").exists()
            path = tmp_path / "answers.jsonl"
            path.write_bytes(path.read_bytes()[:-5])
    assert num_ended > 3
    assert _outcome(tmp_path) == _outcome(unbroken)
    keys = [one["key"] for one in _lines(tmp_path / "answers.jsonl")]
    assert len(keys) == len(set(keys)) == len(PAIRS)


def test_an_endpoint_that_does_all_wrong_changes_no_byte(unbroken, tmp_path):
    """Each request meets each of these once, starting at one that its length gives."""
    wrong = [
        *(FAULTS[one] for one in FAULTS if one not in ("hang", "429 with seconds")),
        reply(status=429, headers=["Retry-After: 0"]),
        reply(completion("I can't", refusal="I can't")),
        reply(completion("")),
        reply(completion("half of", reason="length")),
        reply(completion("Of another model.", model="n")),
    ]
    met: dict[str, int] = {}

    def script(body, times):
        asked = _asked(body)
        number = met[asked] = met.get(asked, -1) + 1
        if number >= len(wrong):
            return _script(body, times)
        return wrong[(number + len(asked)) % len(wrong)]

    num_ended, report = 0, {}
    while sum(report.get("usable", {}).values()) < 6:
        before = (tmp_path / "answers.jsonl").read_bytes() if report or num_ended else b""
        try:
            report, _ = _run(tmp_path, script, DOCUMENTS[:6])
        except EndpointError as error:
            assert "got one of 'n'" in str(error)
            num_ended += 1
        assert (tmp_path / "answers.jsonl").read_bytes().startswith(before)
    assert num_ended > 0 and min(met.values()) >= len(wrong) and len(met) == 6
    lines = (tmp_path / "documents.jsonl").read_bytes().splitlines()
    assert lines == (unbroken / "documents.jsonl").read_bytes().splitlines()[:6]
    keys = [one["key"] for one in _lines(tmp_path / "answers.jsonl")]
    assert len(keys) == len(set(keys)) == 6


def test_unfaithful_rewrites_and_failures_are_left_out_and_failures_asked_again(tmp_path):
    def script(body, times):
        text = REWRITES[_asked(body)]
        if "Arden" in text:
            return reply(completion(text.replace("42", "47")))
        return reply(completion("no", refusal="no")) if "Lopez" in text else _script(body, times)

    report, _ = _run(tmp_path, script, DOCUMENTS[:4])
    assert report["usable"] == {"wiki": 2} and report["failed"] == {"refused": 1}
    assert report["problems"] == {"number missing": 1, "number added": 1}
    wrong, failed = _lines(tmp_path / "left_out.jsonl")
    assert wrong["id"] == DOCUMENTS[0].id and ["number missing", "42"] in wrong["problems"]
    assert failed["id"] == DOCUMENTS[1].id and failed["failure"].startswith("refused")
    report, num_asked = _run(tmp_path, _script, DOCUMENTS[:4])
    assert num_asked == 1 and report["usable"] == {"wiki": 3}


def test_each_chunk_goes_on_from_the_end_of_the_rewrite(tmp_path):
    sources = [source for source, _ in PAIRS[:3]]
    whole = of_text(" ".join(sources), "test")._replace(language="en")
    size = max(len(source.encode()) for source in sources)
    assert [one.strip() for one in chunks.chunks(whole.text, size)] == sources
    settings = rephrase.Settings(model="m", styles=("faq", "note"), chunk_bytes=size, tail_bytes=90)
    bodies = []

    def script(body, times):
        bodies.append(body)
        return reply(completion(REWRITES[_asked(body)]))

    report, num_asked = _run(tmp_path, script, [whole], settings)
    assert report["usable"] == {"faq": 1, "note": 1} and num_asked == 6
    assert len({body["seed"] for body in bodies}) == 6
    for style in settings.styles:
        asked = [one["messages"][1]["content"] for one in bodies
                 if styles.STYLES[style] in one["messages"][1]["content"]]  # fmt: skip
        assert "<rewritten>" not in asked[0]
        for number in (1, 2):
            before = chunks.tail(PAIRS[number - 1][1], 90)
            assert f"<rewritten>\n{before}\n</rewritten>" in asked[number]
    texts = [one["text"] for one in _lines(tmp_path / "documents.jsonl")]
    assert texts == ["\n\n".join(rewrite for _, rewrite in PAIRS[:3])] * 2


@pytest.mark.parametrize(
    ("answer", "kinds"),
    [("8", []), ("9", ["number missing", "number added", "answer changed"])],
)
def test_the_final_answer_of_a_solution_must_stay(answer, kinds, tmp_path):
    source = of_text("Mina has five pens and gets three. So she has eight. Answer: 8", "test")
    said = f"Five pens and three more that Mina gets make up what she has. Answer: {answer}"
    settings = rephrase.Settings(model="m", styles=("wiki",), are_solutions=True)
    documents = [source._replace(language="en")]
    _run(tmp_path, lambda *_: reply(completion(said)), documents, settings)
    left_out = _lines(tmp_path / "left_out.jsonl")
    found = [kind for one in left_out for kind, _ in one["problems"]]
    assert found == kinds


def _judged(out, said, settings):
    """A run whose judge says `said` of every rewrite; the rewrites come from another model."""

    def script(body, times):
        if body["model"] == "judge":
            return reply(completion(said, model="judge"))
        return _script(body, times)

    return _run(out, script, DOCUMENTS[:3], settings)


@pytest.mark.parametrize(
    ("said", "usable", "failed"),
    [
        ('Well: {"faithful": 1, "why": "nothing"}', 3, {}),
        ('{"faithful": 0, "why": "He found it, not she."}', 0, {}),
        ('{"faithful": "yes"}', 0, {"judge": 3}),
        ("It is fine.", 0, {"judge": 3}),
        ("", 0, {"judge": 3}),
    ],
)
def test_a_judge_has_the_last_word(said, usable, failed, tmp_path):
    settings = dataclasses.replace(SETTINGS, judge="judge")
    report, num_asked = _judged(tmp_path, said, settings)
    assert report["usable"] == {"wiki": usable} and report["failed"] == failed
    assert num_asked == 6
    left_out = _lines(tmp_path / "left_out.jsonl")
    judged = [problem for one in left_out for problem in one.get("problems", ())]
    assert judged == [["judged", "He found it, not she."]] * (0 if usable or failed else 3)


def test_a_judge_is_not_asked_of_what_code_finds_wrong(tmp_path):
    judges = 0

    def script(body, times):
        nonlocal judges
        judges += body["model"] == "judge"
        return reply(completion("Something else.", model=body["model"]))

    settings = dataclasses.replace(SETTINGS, judge="judge")
    report, num_asked = _run(tmp_path, script, DOCUMENTS[:2], settings)
    assert judges == 0 and num_asked == 2 and report["usable"] == {"wiki": 0}


def test_results_come_in_order_and_few_are_begun():
    begun, most = 0, 0

    async def work(number):
        nonlocal begun, most
        begun += 1
        most = max(most, begun)
        await asyncio.sleep(0.001 * (7 * number % 5))
        return number

    async def run():
        nonlocal begun
        found = []
        async for one in batch.in_order(range(20), work, window=6):
            found.append(one)
            begun -= 1
        return found

    assert asyncio.run(run()) == list(range(20)) and most == 6


SENTENCES = {
    "en": ["Dr. Kim has 3.5, e.g. here. ", "Is it so? ", '"Yes!" ', "J. R. said no.\n", "End"],
    "ko": ["값은 3.5이다. ", "그런가? ", "그렇다."],
    "ja": [
        "\u7d42\u308f\u3063\u305f\u3002", "\u300c\u306f\u3044\u3002\u300d", "\u672c\u5f53\uff1f",
    ],
    "zh": ["\u4ed6\u6765\u4e86\u3002", "\u771f\u7684\uff01", "\u662f\u3002"],
    "vi": ["TS. Lan \u0111\u00e3 \u0111\u1ebfn. ", "Th\u1eadt \u01b0? ", "V\u00e2ng."],
    "de": ["Das sind z.B. 3,5 Meter. ", "Nr. 5 fehlt. ", "Ende."],
    "th": [
        "\u0e40\u0e02\u0e32\u0e21\u0e32\u0e41\u0e25\u0e49\u0e27 ",
        "\u0e08\u0e23\u0e34\u0e07\u0e2b\u0e23\u0e37\u0e2d",
    ],
}  # fmt: skip


@pytest.mark.parametrize("language", SENTENCES)
def test_sentences_end_where_they_do_in_each_language(language):
    parts = SENTENCES[language]
    text = "".join(parts)
    assert chunks.sentences(text) == parts
    for size in (1, 30, 1000):
        cut = chunks.chunks(text, size)
        assert "".join(cut) == text
        assert all(len(one.rstrip().encode()) <= size or one in parts for one in cut)
    assert chunks.tail(text, 10_000) == text.strip()
    assert text.endswith(chunks.tail(text, 12)) and len(chunks.tail(text, 12).encode()) <= 12


FLAGS = ["--endpoint=http://127.0.0.1:9/v1", "--model=m", "--language=en"]


@pytest.mark.parametrize(
    ("flag", "wanted"),
    [
        ("--styles=poem", "--styles must be of teacher,.*'poem'"),
        ("--styles=faq,faq", "each once"),
        ("--endpoint=localhost:80", "--endpoint must begin with http"),
        ("--concurrency=0", "--concurrency must be 1 or more, got 0"),
        ("--key-variable=NO_SUCH_KEY", "there is no such variable"),
        ("--judge-endpoint=http://127.0.0.1:8/v1", "--judge-endpoint needs --judge-model"),
        ("--judge-key-variable=HOME", "is of --judge-endpoint"),
        ("--text-field=body", "expected the key 'body', got 'text'"),
    ],
)
def test_what_cannot_run_is_refused_before_anything_is_asked(flag, wanted, tmp_path, capsys):
    path = tmp_path / "in.jsonl"
    path.write_text('{"text": "A text."}\n')
    with pytest.raises(SystemExit) as ended:
        command.main([str(path), f"--to={tmp_path / 'out'}", *FLAGS, flag])
    assert ended.value.code == 2
    assert re.search(wanted, capsys.readouterr().err)
    assert not (tmp_path / "out").exists()


def test_a_dry_run_asks_and_writes_nothing(tmp_path, capsys):
    path = tmp_path / "in.jsonl"
    path.write_text('{"text": "A text."}\n')
    command.main([str(path), f"--to={tmp_path / 'out'}", *FLAGS, "--dry-run"])
    assert capsys.readouterr().out == "1 documents, 0.00 MB, each in wiki\n"
    assert not (tmp_path / "out").exists()
