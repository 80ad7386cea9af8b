"""Bad gradients are skipped, and never enter the statistics that judge the next ones."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from kanana_jax import optim

WINDOW = 8


def guarded(**options):
    optimizer = optim.skip_bad_steps(
        optax.sgd(1.0, momentum=0.9), **({"window_steps": WINDOW, "num_sigmas": 6.0} | options)
    )
    return optimizer, jax.jit(optimizer.update)


def follow(sizes, **options):
    """Feed gradients of the given sizes; return the update sizes and the last report."""
    optimizer, step = guarded(**options)
    params = jnp.zeros(4)
    state, moves = optimizer.init(params), []
    for size in sizes:
        updates, state = step(jnp.full(4, size / 2), state, params)
        moves.append(float(jnp.abs(updates).max()))
    return moves, {name: np.asarray(x) for name, x in optim.skip_report(state).items()}


def ripple(num_steps):
    return [1.0 + 0.1 * (-1) ** i for i in range(num_steps)]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 100.0])
def test_one_bad_gradient_costs_one_step(bad):
    moves, report = follow([*ripple(WINDOW), bad, *ripple(20)])
    assert moves[WINDOW] == 0.0
    assert all(move > 0.0 for i, move in enumerate(moves) if i != WINDOW)
    assert report["num_skipped"] == 1 and report["consecutive_skips"] == 0
    assert report["num_accepted"] == WINDOW + 20


def test_skipped_gradients_leave_the_inner_state_bitwise_unchanged():
    optimizer, step = guarded()
    params = jnp.ones(4)
    _, state = step(jnp.ones(4), optimizer.init(params), params)
    _, skipped = step(jnp.full(4, jnp.nan), state, params)
    jax.tree.map(np.testing.assert_array_equal, skipped.inner, state.inner)
    np.testing.assert_array_equal(skipped.accepted_norms, state.accepted_norms)
    assert int(skipped.consecutive_skips) == 1


def test_nonfinite_gradients_are_never_accepted_and_are_counted():
    moves, report = follow([*ripple(WINDOW), *[np.nan] * 30], max_consecutive_skips=5)
    assert not any(moves[WINDOW:])
    assert report["consecutive_skips"] == 30
    assert np.isnan(report["last_norm"])


def test_a_lasting_new_level_is_accepted_after_the_allowed_skips():
    moves, report = follow([*ripple(WINDOW), *[50.0] * 20], max_consecutive_skips=5)
    assert not any(moves[WINDOW : WINDOW + 5]) and all(moves[WINDOW + 5 :][:1])
    assert report["num_skipped"] >= 5
    assert report["consecutive_skips"] == 0


def test_spikes_are_not_judged_before_the_window_is_full():
    moves, _ = follow([1.0, 1000.0, 1.0])
    assert all(moves)


def test_quiet_stretches_do_not_make_ripples_spikes():
    moves, _ = follow([*[1.0] * WINDOW, 1.02, 1.03, 1.04])
    assert all(moves)


def test_a_new_level_is_no_spike_after_norms_were_forgotten():
    optimizer, step = guarded()
    params = jnp.zeros(4)
    state = optimizer.init(params)
    for size in ripple(WINDOW):
        _, state = step(jnp.full(4, size / 2), state, params)
    state = optim.forget_norms(state)
    for size in [50.0] * WINDOW:
        _, state = step(jnp.full(4, size / 2), state, params)
    assert int(state.num_accepted) == 2 * WINDOW and int(state.num_skipped) == 0
    _, state = step(jnp.full(4, 5000.0), state, params)
    assert int(state.num_skipped) == 1


def test_a_gradient_of_zero_does_not_stop_the_judging():
    moves, _ = follow([0.0, *ripple(WINDOW - 1), 100.0])
    assert moves[-1] == 0.0
