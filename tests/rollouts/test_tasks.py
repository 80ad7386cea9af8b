"""Problems are solved here a second time, from their words alone."""

import collections
import json
import re
from fractions import Fraction

import numpy as np
import pytest

from kanana_jax import config
from kanana_jax.rollouts import tasks
from kanana_jax.rollouts.tasks import __main__ as command

FAMILIES = tasks.FAMILIES.values()


def _numbers(text):
    return [int(found) for found in re.findall(r"\d+", text)]


def _word_sum(prompt):
    start, *changes = _numbers(prompt)
    signs = [1 if word in ("gets", "받") else -1 for word in re.findall("gets|loses|받|잃", prompt)]
    return str(start + sum(sign * change for sign, change in zip(signs, changes, strict=True)))


def _equation(prompt):
    factor, *terms, total = _numbers(prompt)
    return str(Fraction(total - sum(terms), factor))


def _letters(prompt):
    asked, word = re.search(r"many (\w) in (\w+)\?", prompt).groups() if prompt.isascii() else (
        re.search(r"([a-z]+)에서 ([a-z])의", prompt).groups()[::-1]
    )  # fmt: skip
    return str(word.count(asked))


def _chain_sum(prompt):
    *digits, base = _numbers(prompt)
    return str(sum(digits) % base)


SOLVED = {
    "chain_sum": _chain_sum,
    "digit_sum": lambda prompt: str(sum(_numbers(prompt.partition(":")[2])) % 10),
    "word_sum": _word_sum,
    "largest": lambda prompt: str(max(_numbers(prompt))),
    "letters": _letters,
    "sorting": lambda prompt: "".join(map(str, sorted(_numbers(prompt)))),
    "equation": _equation,
}


@pytest.mark.parametrize("language", tasks.LANGUAGES)
@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_answers_are_right_and_every_step_follows(family, language):
    drawn = tasks.problems(family, language, seed=3, count=150, heldout=False)
    assert len({one.prompt for one in drawn}) == 150
    assert {one.size for one in drawn} == set(family.sizes)
    for one in drawn:
        assert one.answer == SOLVED[family.name](one.prompt), one
        assert tasks.follows(one, one.trace) == (True,) * one.size
        assert one.prompt.isascii() == (language == "en")
        assert len(tasks.document(one, with_trace=True).encode()) <= 120


EXAMPLES = {
    "digit_sum": (
        "Sum mod 10: 8 + 6 + 9 + 0 . . . . . . . . . . .",
        "합을 10으로: 8 + 6 + 9 + 0 . . . . . . . . . . .",
    ),
    "chain_sum": ("What is 1+0+0+1 mod 5?", "1+0+0+1을 5로 나눈 나머지는?"),
    "word_sum": (
        "Minsu has 8 maps, loses 2, gets 6, loses 7. How many?",
        "민수는 지도가 8개 있다. 2개를 잃고 6개를 받고 7개를 잃으면 몇 개?",
    ),
    "largest": ("Which is largest: 24 72 38 50?", "24 72 38 50 중 가장 큰 수는?"),
    "letters": ("How many c in cacb?", "cacb에서 c의 개수는?"),
    "sorting": ("Sort 7 7 7 1.", "7 7 7 1을 작은 수부터 쓰면?"),
    "equation": ("If 5x=20, what is x?", "5x=20이면 x는?"),
}


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_a_seed_and_an_index_always_give_the_same_problem(family):
    """As written here, in both languages and however often it is asked for."""
    english, korean = (tasks.make(family, language, 5, 2) for language in tasks.LANGUAGES)
    assert (english.prompt, korean.prompt) == EXAMPLES[family.name]
    assert (english.numbers, english.trace) == (korean.numbers, korean.trace)
    assert tasks.make(family, "en", 5, 2) == english
    assert tasks.make(family, "en", 6, 2).numbers != english.numbers


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_training_and_heldout_problems_differ_whatever_the_seeds(family):
    training = [
        one
        for language in tasks.LANGUAGES
        for seed in range(3)
        for one in tasks.problems(family, language, seed=seed, count=100, heldout=False)
    ]
    heldout = tasks.mixed([family], tasks.LANGUAGES, seed=1, count=80, heldout=True)
    assert {one.numbers for one in training} & {one.numbers for one in heldout} == set()
    assert {tasks.is_heldout(one) for one in training} == {False}


def test_an_eighth_of_all_problems_is_held_out():
    drawn = [tasks.make(tasks.FAMILIES["sorting"], "en", 0, i) for i in range(4000)]
    share = np.mean([tasks.is_heldout(one) for one in drawn])
    np.testing.assert_allclose(share, 1 / 8, atol=4 * (1 / 8 * 7 / 8 / 4000) ** 0.5)


def test_sets_take_families_and_languages_in_turn():
    families = [tasks.FAMILIES["letters"], tasks.FAMILIES["equation"]]
    drawn = tasks.mixed(families, tasks.LANGUAGES, seed=0, count=10, heldout=True, sizes=[2, 7])
    kinds = collections.Counter((one.family.name, one.language) for one in drawn)
    assert kinds == {
        ("letters", "en"): 3,
        ("letters", "ko"): 3,
        ("equation", "en"): 2,
        ("equation", "ko"): 2,
    }
    assert {one.size for one in drawn} <= {2, 7}


def test_more_problems_than_there_are_are_refused():
    with pytest.raises(
        config.ConfigError, match=r"expected 90 training problems of letters .* got"
    ):
        tasks.problems(tasks.FAMILIES["letters"], "en", seed=0, count=90, heldout=False, sizes=[3])


def _equation_problem():
    """If 4x+5+9=22, what is x?"""
    found = (tasks.make(tasks.FAMILIES["equation"], "en", 0, i, [3]) for i in range(9999))
    return next(one for one in found if one.numbers == (4, 2, 5, 9))


@pytest.mark.parametrize(
    ("trace", "follows"),
    [
        ("22-5=17 17-9=8 8/4=2", (True, True, True)),
        ("22-5=18 18-9=9 9/4=2", (False, True, False)),  # 4 does not divide 9
        ("22-5=16 17-9=8 8/4=2", (False, False, True)),
        ("22-5=17 17-9=8", (True, True, False)),
        ("22-5=17 17-9=8 8/4=2 2/1=2", (True, True, True, False)),
        ("22-5=017 17-9=8 8/4=2", (False, False, True)),
        ("22-5=17  8/4=2", (True, False, False)),
        ("17 __import__('os') 8/4=2", (False, False, False)),
        ("", (False, False, False)),
    ],
)
def test_steps_that_follow_are_told_from_those_that_do_not(trace, follows):
    assert tasks.follows(_equation_problem(), trace) == follows


@pytest.mark.parametrize(
    ("text", "answer", "trace"),
    [
        ("22-5=17 17-9=8\n= 2", "2", "22-5=17 17-9=8"),
        ("= 2", "2", ""),
        ("If 4x+5+9=22, what is x?\n8/4=2\n= 2", "2", "8/4=2"),
        ("8/4=2\n= 2\nIf 4x=8\n= 3", "2", "8/4=2"),
        ("= 12", "12", ""),
        ("8/4=2", None, "8/4=2"),
        ("8/4\n=2", None, "8/4\n=2"),
        ("8 / 4 = 2\n= 2", "2", "8 / 4 = 2"),
        ("", None, ""),
    ],
)
def test_the_answer_and_the_trace_of_a_text_are_read(text, answer, trace):
    problem = _equation_problem()
    assert tasks.answer_of(text) == answer
    assert tasks.is_right(problem, text) == (answer == "2")
    assert tasks.trace_of(problem, text) == trace


def test_a_document_is_the_prompt_with_all_that_is_to_come():
    problem = _equation_problem()
    assert tasks.document(problem, False) == "If 4x+5+9=22, what is x?\n= 2"
    assert tasks.document(problem, True) == ("If 4x+5+9=22, what is x?\n22-5=17 17-9=8 8/4=2\n= 2")
    for with_trace in (False, True):
        text = tasks.document(problem, with_trace)
        assert text.startswith(tasks.prompt_text(problem)) and tasks.is_right(problem, text)
        assert bool(tasks.trace_of(problem, text)) == with_trace


@pytest.mark.parametrize("share", [0.0, 0.15, 1.0])
def test_a_share_of_documents_has_its_trace(share):
    drawn = tasks.mixed(FAMILIES, tasks.LANGUAGES, seed=0, count=1200, heldout=False)
    made = list(tasks.documents(drawn, share, seed=7))
    has_trace = [text.count("\n") == 2 for text in made]
    np.testing.assert_allclose(
        np.mean(has_trace), share, atol=4 * (share * (1 - share) / 1200) ** 0.5
    )
    assert made == list(tasks.documents(drawn, share, seed=7))
    if 0 < share < 1:
        assert made != list(tasks.documents(drawn, share, seed=8))
        for language in tasks.LANGUAGES:  # not those of one language alone
            assert any(
                has and one.language == language for has, one in zip(has_trace, drawn, strict=True)
            )


def test_the_best_constant_answer_is_the_most_frequent_one():
    drawn = tasks.problems(tasks.FAMILIES["letters"], "en", seed=0, count=100, heldout=False)
    right = [np.mean([one.answer == str(k) for one in drawn]) for k in range(7)]
    assert tasks.constant_accuracy(drawn) == max(right)
    assert 0.2 < max(right) < 0.6


def test_the_command_writes_the_same_file_again(tmp_path, capsys):
    arguments = ("--family=chain_sum,letters", "--count=40", "--traces=0.5", "--seed=4")
    for name in ("a", "b"):
        command.main([f"--out={tmp_path / name}.jsonl", *arguments])
    content = (tmp_path / "a.jsonl").read_bytes()
    assert content == (tmp_path / "b.jsonl").read_bytes()
    texts = [json.loads(line)["text"] for line in content.splitlines()]
    assert len(texts) == 40
    families = [tasks.FAMILIES[name] for name in ("chain_sum", "letters")]
    drawn = tasks.mixed(families, tasks.LANGUAGES, seed=4, count=40, heldout=False)
    assert texts == list(tasks.documents(drawn, 0.5, 4))
    shown = capsys.readouterr().out
    assert "40 documents" in shown
    constant = (
        f"{tasks.constant_accuracy(one for one in drawn if one.family.name == 'letters'):.1%}"
    )
    assert f"letters: 20 problems; the most frequent answer is right in {constant}" in shown


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--family=poetry", "expected families among chain_sum, word_sum"),
        ("--language=de", "language[0] must be one of en, ko"),
        ("--traces=1.5", "traces must lie in [0, 1]"),
        ("--count=0", "count must lie in"),
        ("--sizes=0", "sizes[0] must lie in"),
        ("--out=problems.txt", "expected a file ending in .jsonl"),
        ("--traces=half", "invalid float value"),
    ],
)
def test_settings_that_cannot_be_used_end_the_command_with_2(flag, message, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        command.main([f"--out={tmp_path}/a.jsonl", flag])
    assert ended.value.code == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
