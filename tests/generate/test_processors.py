"""Penalties, biases, ends, constraints and logprobs; rows without them stay as they are."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_engine

from kanana_jax import model
from kanana_jax.config import ConfigError
from kanana_jax.generate import Request, RequestError, Sampling, processors, sampling
from kanana_jax.generate.answers import answers
from kanana_jax.generate.processors import NOTHING, Processors
from kanana_jax.model import presets

pytestmark = pytest.mark.slow

PENALTIES = Processors(
    repetition_penalty=1.3, frequency_penalty=0.7, presence_penalty=-0.4, logit_bias=((7, 3.0),)
)
GREEDY = Sampling(temperature=0.0)
PROMPT = [5, 9, 200, 9, 17]


@pytest.fixture(scope="module")
def engine(cfg, weights):
    return small_engine.make(cfg, weights)


@pytest.fixture(scope="module")
def logits_after(cfg, stacks):
    """The model's own logits after each token, by a full forward pass."""
    apply = jax.jit(functools.partial(model.apply, cfg, execution=presets.LAPTOP))

    def of(ids):
        tokens = np.zeros((1, 48), np.int32)
        tokens[0, : len(ids)] = ids
        return np.asarray(apply(stacks, model.Inputs.of_tokens(tokens))[0])[0, : len(ids)]

    return of


def _by_hand(logits_V, how, prompt, drawn):
    z_V = np.float64(logits_V)
    for token in {*prompt, *drawn}:
        by = how.repetition_penalty
        z_V[token] = z_V[token] / by if z_V[token] > 0 else z_V[token] * by
    for token in {*drawn}:
        z_V[token] -= how.frequency_penalty * drawn.count(token) + how.presence_penalty
    for token, bias in how.logit_bias:
        z_V[token] += bias
    return z_V


def _pieces(engine, *requests):
    found = [[] for _ in requests]
    for piece in engine.run(requests):
        found[piece.request].append(piece)
    return found


@pytest.mark.long
def test_penalties_and_biases_are_those_of_the_formula(engine, logits_after):
    request = Request(prompt=PROMPT, max_tokens=14, sampling=GREEDY, processors=PENALTIES)
    (got,) = answers(engine, [request])
    drawn = []
    for _ in range(14):
        z_V = _by_hand(logits_after([*PROMPT, *drawn])[-1], PENALTIES, PROMPT, drawn)
        drawn.append(int(np.argmax(z_V)))
    assert [*got.ids] == drawn
    (plain,) = answers(engine, [dataclasses.replace(request, processors=NOTHING)])
    assert plain.ids != got.ids


ALONE = {
    "repetition": Processors(repetition_penalty=1.3),
    "frequency": Processors(frequency_penalty=0.7),
    "presence": Processors(presence_penalty=0.4),
    "bias": Processors(logit_bias=((7, 3.0), (2, -1.5))),
    "all": PENALTIES,
}


@pytest.mark.parametrize("name", ALONE)
def test_logits_are_moved_as_the_formula_says(name):
    """Each alone too: the most likely token need not reveal that one has the wrong sign."""
    logits_V = np.random.default_rng(0).standard_normal(40).astype(np.float32)
    prompt, drawn = [5, 9, 17, 9], [9, 3, 3, 7]
    state = processors.begin(processors.init(1, 40), 0, ALONE[name], prompt, [4])
    for token in drawn:
        state = processors.counted(state, np.array([token]))
    rows = processors.rows([ALONE[name]], [None], 40, has_logprobs=False)
    got = processors.processed(jnp.asarray(logits_V)[None], state, rows, np.array([4], np.int32))
    want = _by_hand(logits_V, ALONE[name], prompt, drawn)
    np.testing.assert_allclose(got[0], want, rtol=1e-6, atol=1e-6)


@pytest.mark.long
def test_an_answer_that_was_cut_off_goes_on_with_its_penalties(engine):
    request = Request(prompt=PROMPT, max_tokens=14, processors=PENALTIES)
    (whole,) = answers(engine, [request])
    for cut in (1, 6):
        (rest,) = answers(engine, [dataclasses.replace(request, drawn=whole.ids[:cut])])
        assert rest.ids == whole.ids[cut:]
        assert rest.logps == whole.logps[cut:]


@pytest.mark.long
def test_others_keep_their_bits_beside_a_row_that_is_processed(cfg, weights):
    plain = small_engine.mixed(cfg)
    want = answers(small_engine.make(cfg, weights), plain)
    odd = [
        Request(prompt=PROMPT, max_tokens=9, processors=PENALTIES),
        Request(prompt=PROMPT, max_tokens=9, num_top_logprobs=3, has_prompt_logprobs=True),
        Request(prompt=PROMPT, max_tokens=9, constraint=lambda: _Even(cfg.vocab_size, 6)),
    ]
    engine = small_engine.make(cfg, weights)
    got = answers(engine, [odd[0], *plain[:3], odd[1], odd[2], *plain[3:]])
    small_engine.assert_same([*got[1:4], *got[6:]], want)


def test_rows_that_ask_for_nothing_keep_the_bits_of_their_logits():
    logits = jnp.array(np.random.default_rng(0).standard_normal((2, 40)), jnp.float32)
    logits = logits.at[0, 3].set(-0.0)
    state = processors.init(2, 40)
    for row in (0, 1):
        state = processors.begin(state, row, PENALTIES, [1, 2, 3], [4])
    state = processors.counted(state, np.array([3, 3]))
    rows = processors.rows([NOTHING, PENALTIES], [None, None], 40, has_logprobs=False)
    got = processors.processed(logits, state, rows, np.zeros(2, np.int32))
    assert np.asarray(got[0]).tobytes() == np.asarray(logits[0]).tobytes()
    assert (np.asarray(got[1]) != np.asarray(logits[1])).sum() == 4  # 1, 2, 3 and 7


@pytest.mark.long
def test_logprobs_are_the_models_own_whatever_is_drawn(engine, logits_after):
    how = dataclasses.replace(PENALTIES, logit_bias=((3, 100.0),))
    request = Request(
        prompt=[*range(40, 61)],  # three chunks
        max_tokens=6,
        sampling=Sampling(temperature=0.5, top_k=2),
        processors=how,
        num_top_logprobs=0,
        has_prompt_logprobs=True,
    )
    (pieces,) = _pieces(engine, request)
    ids = [*request.prompt, *(piece.token for piece in pieces)]
    assert ids[21:] == [3] * 6
    want = np.asarray(jax.nn.log_softmax(logits_after(ids), axis=-1))
    of_prompt = pieces[0].prompt_logprobs
    found = [*of_prompt.logp_N, *(piece.logprobs.logp_N for piece in pieces)]
    np.testing.assert_allclose(found, want[range(26), ids[1:]], rtol=0, atol=2e-5)
    tops = np.concatenate([of_prompt.top_logp_NK, [one.logprobs.top_logp_NK for one in pieces]])
    np.testing.assert_allclose(tops, np.sort(want[:26])[:, :-21:-1], rtol=0, atol=2e-5)
    best = [*of_prompt.top_NK[:, 0], *(piece.logprobs.top_NK[0] for piece in pieces)]
    assert best == np.argmax(want[:26], axis=-1).tolist()
    assert all(piece.prompt_logprobs is None for piece in pieces[1:])


def test_prompts_that_are_shared_or_read_together_have_logprobs_of_their_own(engine, logits_after):
    asked = dataclasses.replace(
        Request(prompt=PROMPT, max_tokens=2), num_top_logprobs=0, has_prompt_logprobs=True
    )
    other = dataclasses.replace(asked, prompt=[1])
    longer = dataclasses.replace(asked, prompt=[*range(30)])
    plain = Request(prompt=PROMPT, max_tokens=2, sampling=Sampling(seed=4))
    found = _pieces(engine, asked, plain, other, longer)
    assert found[1][0].prompt_logprobs is None and found[1][0].logprobs is None
    assert found[2][0].prompt_logprobs.logp_N.shape == (0,)
    for pieces, prompt in ((found[0], PROMPT), (found[3], range(30))):
        want = jax.nn.log_softmax(logits_after(prompt), axis=-1)
        got = pieces[0].prompt_logprobs.logp_N
        np.testing.assert_allclose(got, want[np.arange(len(got)), [*prompt][1:]], rtol=0, atol=2e-5)


class _Even:
    """Allows even tokens until there are `number` of them."""

    has_given_up = False

    def __init__(self, vocab_size, number):
        self._vocab_size, self._left = vocab_size, number
        self.num_asked = 0

    @property
    def is_whole(self):
        return self._left == 0

    def allowed(self):
        self.num_asked += 1
        return np.full(processors.num_words(self._vocab_size), 0x55555555, np.uint32)

    def push(self, token):
        assert token % 2 == 0
        self._left -= 1


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_constraint_is_kept_to_and_ends_the_answer(cfg, engine, temperature):
    matchers = []

    def constraint():
        matchers.append(_Even(cfg.vocab_size, 9))
        return matchers[-1]

    request = Request(
        prompt=PROMPT,
        max_tokens=20,
        sampling=Sampling(temperature=temperature),
        constraint=constraint,
        processors=Processors(min_tokens=15),
    )
    other = dataclasses.replace(request, sampling=Sampling(seed=5))
    for pieces in _pieces(engine, request, other, request):
        assert len(pieces) == 9
        assert all(piece.token % 2 == 0 for piece in pieces)
        assert [piece.finish_reason for piece in pieces] == [None] * 8 + ["stop"]
    # A mask may take long, so one is made for each token that is drawn, and no more.
    assert [one.num_asked for one in matchers] == [9, 9, 9]


class _GivesUp(_Even):
    is_whole = False

    @property
    def has_given_up(self):
        return self._left == 0


@pytest.mark.parametrize("stop_ids", [(), [*range(258)]], ids=["free", "at an end"])
def test_a_matcher_that_gives_up_ends_the_answer_as_cut_off(cfg, engine, stop_ids):
    number = 1 if stop_ids else 3
    request = Request(
        prompt=PROMPT,
        max_tokens=20,
        stop_ids=stop_ids,
        constraint=lambda: _GivesUp(cfg.vocab_size, number),
    )
    (pieces,) = _pieces(engine, request)
    assert (len(pieces), pieces[-1].finish_reason) == (number, "length")


def test_a_constraint_that_allows_only_an_end_goes_before_min_tokens():
    state = processors.begin(processors.init(1, 40), 0, NOTHING, [1], [4])
    allowed = np.zeros(2, np.uint32)
    allowed[0] = 1 << 4
    rows = processors.rows([Processors(min_tokens=3)], [allowed], 40, has_logprobs=False)
    z = processors.processed(jnp.zeros((1, 40)), state, rows, np.zeros(1, np.int32))
    assert np.flatnonzero(np.isfinite(z[0])).tolist() == [4]


def test_ends_are_those_of_the_model_and_of_the_request(cfg, weights):
    request = Request(prompt=PROMPT, max_tokens=12, sampling=Sampling(seed=3))
    (plain,) = answers(small_engine.make(cfg, weights), [request])
    eos, stop = plain.ids[4], plain.ids[2]
    engine = small_engine.make(cfg, weights, eos_ids=[eos])
    ways = [
        ({}, plain.ids[:5]),
        ({"stop_ids": [stop]}, plain.ids[:3]),
        ({"ignores_eos": True}, plain.ids),
        ({"ignores_eos": True, "stop_ids": [stop]}, plain.ids[:3]),
    ]
    for options, want in ways:
        (got,) = answers(engine, [dataclasses.replace(request, **options)])
        assert got.ids == want
        assert got.text == small_engine.DECODE(want if want == plain.ids else want[:-1])
    late = dataclasses.replace(request, stop_ids=[stop], processors=Processors(min_tokens=8))
    (got,) = answers(engine, [late])
    assert not {stop, eos}.intersection(got.ids[:8])
    assert got.ids[:2] == plain.ids[:2] and len(got.ids) >= 8


@pytest.mark.parametrize(
    "options",
    [
        {"stop_ids": [258]},
        {"stop_ids": [-1]},
        {"processors": Processors(logit_bias=((258, 1.0),))},
        {"processors": Processors(logit_bias=((-1, 1.0),))},
    ],
)
def test_tokens_that_are_not_there_are_refused(engine, options):
    with pytest.raises(RequestError, match="token ids must lie in"):
        engine.check(Request(prompt=[1], max_tokens=2, **options))


@pytest.mark.parametrize(
    "values",
    [
        {"repetition_penalty": 0.0},
        {"repetition_penalty": float("nan")},
        {"frequency_penalty": float("inf")},
        {"logit_bias": ((1, float("nan")),)},
        {"min_tokens": 2**31},
    ],
)
def test_impossible_values_are_refused(values):
    with pytest.raises(ConfigError):
        Processors(**values)


@pytest.mark.long
def test_a_processed_draw_is_that_of_sampling():
    """A bias makes another distribution, whose draws are those of the biased logits."""
    logits = jnp.array(np.random.default_rng(1).standard_normal((3, 40)), jnp.float32)
    how = sampling.rows([Sampling(seed=n, top_p=0.9) for n in range(3)], [0, 1, 2])
    state, biased = processors.init(3, 40), Processors(logit_bias=((5, 2.0),))
    for row in range(3):
        state = processors.begin(state, row, biased, [1], [])
    rows = processors.rows([biased] * 3, [None] * 3, 40, has_logprobs=False)
    token_B, logp_B, _ = processors.sample(logits, state, rows, how)
    want = sampling.sample(logits.at[:, 5].add(2.0), how, is_filtered=True)
    np.testing.assert_array_equal(token_B, want[0])
    np.testing.assert_array_equal(logp_B, want[1])


def test_what_no_row_asks_for_is_left_out_and_moves_no_bit():
    logits = jnp.array(np.random.default_rng(2).standard_normal((3, 40)), jnp.float32)
    how = sampling.rows([Sampling(seed=0), GREEDY, Sampling(seed=2, min_p=0.1)], [0, 1, 2])
    want = sampling.sample(logits, how, is_filtered=False)
    state = processors.init(3, 40)
    for has_logprobs in (False, True):
        rows = processors.rows([NOTHING] * 3, [None] * 3, 40, has_logprobs=has_logprobs)
        token_B, logp_B, found = processors.sample(logits, state, rows, how)
        np.testing.assert_array_equal(token_B, want[0])
        np.testing.assert_array_equal(logp_B, want[1])
        logp_BV = jax.nn.log_softmax(logits, axis=-1)
        best_B20 = jax.lax.top_k(logp_BV, 20)[0]
        np.testing.assert_allclose(found.top_logp_NK, best_B20 * has_logprobs, rtol=1e-6)
