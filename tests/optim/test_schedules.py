"""Learning rates at the steps that matter."""

import jax
import numpy as np
import pytest

from kanana_jax.optim import schedules


def rates(schedule, steps):
    return [float(schedule(step)) for step in steps]


def test_warmup_starts_above_zero_and_ends_at_the_peak():
    schedule = schedules.constant(2.0, warmup_steps=4)
    np.testing.assert_allclose(rates(schedule, range(6)), [0.5, 1.0, 1.5, 2.0, 2.0, 2.0])


def test_wsd_is_flat_then_falls_and_spends_no_step_at_zero():
    schedule = schedules.wsd(1.0, num_steps=10, warmup_steps=2, decay_steps=4)
    expected = [0.5, 1, 1, 1, 1, 1, 1, 0.75, 0.5, 0.25, 0.0]
    np.testing.assert_allclose(rates(schedule, range(11)), expected, atol=1e-7)


def test_cosine_passes_half_way_at_half_time():
    schedule = schedules.cosine(1.0, num_steps=12, warmup_steps=2, final_ratio=0.1)
    np.testing.assert_allclose(rates(schedule, [2, 7, 12, 99]), [1.0, 0.55, 0.1, 0.1], rtol=1e-6)


def test_multi_step_drops_at_its_milestones():
    schedule = schedules.multi_step(3.0, milestones=[(4, 0.5), (8, 0.1)], warmup_steps=2)
    np.testing.assert_allclose(
        rates(schedule, [0, 3, 4, 7, 8]), [1.5, 3.0, 1.5, 1.5, 0.3], rtol=1e-6
    )
    with pytest.raises(ValueError, match="rising steps"):
        schedules.multi_step(1.0, milestones=[(4, 0.5), (4, 0.1)])


def test_kimi_k2_has_the_published_rates():
    # 15500 steps stand for 15.5 T tokens, the anneal for 460 B.
    schedule = schedules.kimi_k2(num_steps=15_500, warmup_steps=500, anneal_steps=460)
    got = rates(schedule, [499, 9_999, 12_750, 15_500, 15_960])
    np.testing.assert_allclose(got, [2e-4, 2e-4, 1.1e-4, 2e-5, 7e-6], rtol=1e-3)


def test_peak_and_step_may_be_traced():
    def rate(peak, step):
        return schedules.wsd(peak, num_steps=10, decay_steps=4)(step)

    np.testing.assert_allclose(jax.jit(rate)(0.3, 8), 0.15, rtol=1e-6)


def test_lengths_that_do_not_fit_raise():
    with pytest.raises(ValueError, match="warmup_steps"):
        schedules.wsd(1.0, num_steps=5, warmup_steps=3, decay_steps=3)


def test_segments_follow_each_other_and_the_last_one_stays():
    parts = [(4, 1.0, 1.0, "linear"), (2, 0.5, 0.1, "linear"), (2, 0.2, 0.0, "cosine")]
    schedule = schedules.segments(2.0, parts, warmup_steps=2)
    expected = [1.0, 2.0, 2.0, 2.0, 1.0, 0.6, 0.4, 0.2, 0.0, 0.0]
    np.testing.assert_allclose(rates(schedule, range(10)), expected, atol=1e-7)
    with pytest.raises(ValueError, match="a step or more each"):
        schedules.segments(1.0, [(0, 1.0, 1.0, "linear")])
