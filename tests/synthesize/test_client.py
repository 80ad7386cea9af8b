"""An endpoint that misbehaves loses no answer and doubles none."""

import asyncio
import json

import pytest
import scripted_endpoint
from scripted_endpoint import FAULTS, Endpoint, Slept, completion, reply, request

from kanana_jax.data import DataError
from kanana_jax.synthesize import limits, replies
from kanana_jax.synthesize.records import Records
from kanana_jax.synthesize.replies import EndpointError, RequestFailed
from kanana_jax.synthesize.requests import seed_of

SECONDS = dict.fromkeys(FAULTS, 10.0) | {"hang": 0.5}


def _ask(script, path, *requests, slept=None, **settings):
    """The text or the kind of failure of each request, the endpoint, and the client's counts."""

    async def run():
        with Records(path) as records:
            async with (
                Endpoint(script) as endpoint,
                scripted_endpoint.client(endpoint, records, slept, **settings) as client,
            ):
                found = await asyncio.gather(
                    *(client.ask(one) for one in requests), return_exceptions=True
                )
                return found, endpoint, client.counts

    found, endpoint, counts = asyncio.run(run())
    for one in found:
        if isinstance(one, EndpointError):
            raise one
    shown = [one.failure.kind if isinstance(one, RequestFailed) else one.text for one in found]
    return shown, endpoint, counts


def _lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_tried_again_and_its_answer_kept_once(fault, tmp_path):
    slept = Slept()

    def script(body, times):
        return FAULTS[fault] if times < 3 else reply(completion("fine"))

    found, endpoint, counts = _ask(
        script, tmp_path / "a.jsonl", request(), slept=slept, timeout_s=SECONDS[fault]
    )
    assert found == ["fine"] and len(endpoint.asked) == 3 and counts.retried == 2
    assert len(_lines(tmp_path / "a.jsonl")) == 1
    if fault == "429 with seconds":
        assert slept == [7.0, 7.0]
    else:  # from a half to all of 1 s, then of 2 s
        assert 0.5 <= slept[0] <= 1.0 <= slept[1] <= 2.0


@pytest.mark.parametrize("fault", FAULTS)
def test_what_fails_for_good_is_not_kept_and_asked_again_by_the_next_run(fault, tmp_path):
    path = tmp_path / "a.jsonl"
    found, endpoint, counts = _ask(
        lambda body, times: FAULTS[fault], path, request(), timeout_s=SECONDS[fault] / 5
    )
    assert found == ["gave up"] and len(endpoint.asked) == 4 and counts.failed == 1
    assert path.read_text() == ""
    found, *_ = _ask(lambda body, times: reply(completion("now")), path, request())
    assert found == ["now"]


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        (completion("I can't", refusal="I can't"), "refused"),
        (completion("so", reason="content_filter"), "refused"),
        (completion(" \n"), "empty"),
        (completion(None), "empty"),
        (completion("half of", reason="length"), "cut"),
    ],
)
def test_an_answer_that_is_none_is_a_failure_and_not_tried_again(said, kind, tmp_path):
    found, endpoint, _ = _ask(lambda body, times: reply(said), tmp_path / "a.jsonl", request())
    assert found == [kind] and len(endpoint.asked) == 1
    assert (tmp_path / "a.jsonl").read_text() == ""


def test_a_bad_request_fails_alone(tmp_path):
    def script(body, times):
        is_bad = body["messages"][0]["content"] == "bad"
        return reply(b"too long", 400) if is_bad else reply(completion("fine"))

    found, endpoint, _ = _ask(script, tmp_path / "a.jsonl", request("bad"), request("good"))
    assert found == ["status 400", "fine"] and len(endpoint.asked) == 2


@pytest.mark.parametrize("status", [401, 404])
def test_a_wrong_key_or_address_ends_the_run(status, tmp_path):
    with pytest.raises(EndpointError, match=f"answered {status}.*check --endpoint"):
        _ask(lambda body, times: reply(b"no", status), tmp_path / "a.jsonl", request())


def test_answers_of_another_model_end_the_run_and_are_not_kept(tmp_path):
    with pytest.raises(EndpointError, match="expected answers of the model 'm', got one of 'n'"):
        _ask(lambda *_: reply(completion(model="n")), tmp_path / "a.jsonl", request())
    assert (tmp_path / "a.jsonl").read_text() == ""
    found, *_ = _ask(lambda *_: reply(completion(model="m-2026-01")), tmp_path / "b", request())
    assert found == ["fine"]


def test_equal_requests_are_asked_once_and_later_runs_ask_nothing(tmp_path):
    path = tmp_path / "a.jsonl"
    wanted = [request("a"), request("b"), request("a"), request("a", temperature=0.5)]

    def script(body, times):
        return reply(completion(f"{body['messages'][0]['content']} {body['temperature']}"))

    first, endpoint, counts = _ask(script, path, *wanted)
    assert first == ["a 1.0", "b 1.0", "a 1.0", "a 0.5"]
    assert len(endpoint.asked) == 3 == counts.asked == len(_lines(path))
    content = path.read_bytes()
    again, endpoint, counts = _ask(script, path, *wanted)
    assert again == first and endpoint.asked == [] and counts.cached == 4
    assert path.read_bytes() == content


@pytest.mark.parametrize("cut", [1, 10, 60])
def test_a_torn_last_line_is_cut_away_and_asked_again(cut, tmp_path):
    path = tmp_path / "a.jsonl"

    def script(body, times):
        return reply(completion(body["messages"][0]["content"]))

    wanted = [request(name) for name in "abc"]
    _ask(script, path, *wanted)
    content = path.read_bytes()
    path.write_bytes(content[:-cut])
    found, endpoint, _ = _ask(script, path, *wanted)
    assert found == list("abc") and len(endpoint.asked) == 1
    assert sorted(path.read_bytes().splitlines()) == sorted(content.splitlines())


def test_a_key_is_written_once(tmp_path):
    with Records(tmp_path / "a.jsonl") as records:
        for value in (1, 2):
            records.append("a", value)
        assert records.get("a") == 1 and records.get("b") is None and len(records) == 1
    assert _lines(tmp_path / "a.jsonl") == [{"key": "a", "value": 1}]


def test_a_broken_line_in_the_middle_is_an_error(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"key": "a", "value": 1}\n{"key"\n{"key": "b", "value": 2}\n')
    with pytest.raises(DataError, match="line 2: expected a record"), Records(path):
        pass


def test_no_more_requests_are_open_than_may_be(tmp_path):
    requests = [request(str(number)) for number in range(12)]
    found, endpoint, _ = _ask(
        lambda *_: reply(completion()), tmp_path / "a.jsonl", *requests, concurrency=3
    )
    assert found == ["fine"] * 12 and endpoint.most_open == 3


class _Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now

    async def sleep(self, seconds):
        self.now += seconds


def test_a_bucket_gives_its_rate_in_the_long_run():
    clock = _Clock()

    async def take(amounts):
        bucket = limits.Bucket(60.0, clock=clock, sleep=clock.sleep)
        for amount in amounts:
            await bucket.take(amount)
        return clock.now

    assert asyncio.run(take([1] * 5)) == 0.0  # a burst of five seconds
    clock.now = 0.0
    assert asyncio.run(take([1] * 65)) == pytest.approx(60.0)
    clock.now = 0.0
    assert asyncio.run(take([30, 1])) == pytest.approx(26.0)  # 5 are there: 25 owed, then 1


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("3", 3.0), ("0.5", 0.5), ("-1", 0.0), ("nan", None), ("soon", None), (None, None),
        ("1e9", 600.0), ("Thu, 01 Jan 1970 00:01:40 GMT", 90.0),
    ],
)  # fmt: skip
def test_retry_after_is_seconds_or_a_date(value, seconds):
    assert replies.retry_after(value, now=10.0) == seconds


def test_seeds_depend_on_content_and_nothing_else():
    assert seed_of("doc", 0, "faq") == seed_of("doc", 0, "faq") == 165276420
    assert len({seed_of("doc", chunk, style) for chunk in range(9) for style in "ab"}) == 18
    assert all(0 <= seed_of(n) < 2**31 for n in range(100))
