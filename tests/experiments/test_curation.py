"""Claims about the crawl of the curation experiment, what curation makes of it, and its verdict."""

import collections

import pytest
from test_staged_experiments import holds, made

from experiments.curation import corpora, crawl, settings, verdict

GOOD = "prose", "exercises", "mirrors"


@pytest.fixture(scope="module")
def pages():
    return crawl.pages()


@pytest.mark.long
def test_prose_that_is_measured_is_on_no_page(pages):
    measured = set(crawl.measured_prose())
    assert len(measured) > 300
    shown = "\n".join(one.text for one in pages)
    assert [text[:40] for text in measured if text in shown] == []
    assert crawl.digest(pages) == crawl.digest(crawl.pages()) != crawl.digest(pages[1:])


@pytest.mark.long
def test_each_depth_has_less_and_better_text(pages, tmp_path):
    corpora.make(pages, tmp_path, lambda line: None)
    kinds = {one.text: one.kind for one in pages}
    sizes, shares = [], []
    for depth in corpora.DEPTHS:
        size = collections.Counter()
        for text in corpora._curated(tmp_path, depth):
            size[kinds[text.decode().removesuffix("\n" * corpora.DEPTHS.index(depth))]] += len(text)
        sizes.append(size)
        shares.append(sum(size[kind] for kind in GOOD) / size.total())
    raw, dedup, heuristics, education = sizes
    assert raw.total() > dedup.total() > heuristics.total() > education.total()
    assert dedup["mirrors"] < 0.35 * raw["mirrors"] and dedup["prose"] > 0.95 * raw["prose"]
    assert heuristics["listings"] == 0 and heuristics["chatter"] > 0.95 * raw["chatter"]
    assert education["chatter"] == 0 and education["exercises"] > 0.8 * raw["exercises"]
    assert shares[0] < 0.8 and shares[3] == 1.0


def test_every_arm_has_one_depth_of_english_and_the_same_korean():
    sweep = settings.experiment()
    assert [arm.name for arm in sweep.arms] == list(corpora.DEPTHS)
    for index, arm in enumerate(sweep.arms):
        *english, prose, korean, sums = sweep.base.edited(arm.edits).data.weights
        assert english == [settings.ENGLISH * (index == place) for place in range(4)]
        assert (prose, korean, sums) == (0.0, settings.KOREAN, settings.KOREAN_SUMS)
    assert settings.ENGLISH + settings.KOREAN + settings.KOREAN_SUMS == 1.0


def _runs(folder, seeds=3, **prose):
    """With Korean text alike in all arms, and Korean sums that go with the prose."""
    return [
        made(folder, arm, seed, {"prose": bpb, "korean": 1.0, "korean_sums": bpb / 2}, lr=0)
        for arm, bpb in prose.items()
        for seed in range(seeds)
    ]


@pytest.mark.parametrize(
    ("prose", "wanted"),
    [
        ((3.0, 2.8, 2.6, 2.4), [True, True, True, True, False, True]),
        ((3.0, 3.0, 2.6, 2.4), [False, True, True, True, False, True]),
        ((3.0, 2.8, 3.0, 2.4), [True, False, True, True, False, True]),
        ((3.0, 2.8, 2.6, 3.2), [True, True, False, False, False, False]),
    ],
)
def test_claims_follow_the_losses(tmp_path, prose, wanted):
    found = verdict.judge(_runs(tmp_path, **dict(zip(corpora.DEPTHS, prose, strict=True))))
    assert holds(found) == wanted


def test_an_arm_that_was_left_out_is_not_judged(tmp_path):
    found = verdict.judge(_runs(tmp_path, raw=3.0, education=2.0))
    assert holds(found) == [None, None, None, True, False, True]
