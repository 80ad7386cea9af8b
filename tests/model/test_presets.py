import dataclasses

import pytest

from kanana_jax import model
from kanana_jax.config import ConfigError
from kanana_jax.model import presets


@pytest.mark.parametrize(
    ("cfg", "total", "active"),
    [
        (presets.tiny(256), 1_102_208, 659_840),
        # 30,670.8M is what the release says; the rest of its digits follow from its shapes.
        (presets.kanana_2_30b_a3b(), 30_670_809_088, 3_614_402_560),
        (presets.kanana_2_width(256), 617_591_040, 340_373_760),
        (presets.kanana_2_width(512), 2_154_095_104, 712_565_248),
        (presets.kanana_2_width(1024), 7_983_916_032, 1_552_475_136),
        (presets.kanana_2_155b_a17b(), 156_775_238_656, 16_312_192_000),
        # Published: 15.29B and 2.24B without embedding and head (2 x 335.5M).
        (presets.moonlight_16b_a3b(), 15_960_108_544, 2_914_774_528),
        (presets.kimi_k2_1t_a32b(), 1_026_408_209_408, 32_861_477_888),
        (presets.deepseek_v3(), 671_026_404_352, 37_552_282_624),
        (presets.kanana_nano_2_1b(), 2_086_979_328, 2_086_979_328),
        (presets.kanana_8b(), 8_030_261_248, 8_030_261_248),
        (presets.kanana_9_8b(), 9_775_157_248, 9_775_157_248),
        (presets.kanana_2_3b(), 3_508_972_032, 3_508_972_032),
    ],
    ids=lambda value: f"{value.num_layers}x{value.hidden_size}" if hasattr(value, "yarn") else "",
)
def test_parameter_counts_are_exact_and_need_no_memory(cfg, total, active):
    assert model.num_params(cfg) == (total, active)


@pytest.mark.parametrize(
    ("width", "total", "active"),
    [(256, 0.6, 0.3), (512, 2.2, 0.7), (1024, 8.0, 1.6), (2048, 30.7, 3.6)],
)
def test_width_family_rounds_to_the_published_table(width, total, active):
    counts = model.num_params(presets.kanana_2_width(width))
    assert [round(count / 1e9, 1) for count in counts] == [total, active]


def test_a_width_outside_the_family_raises():
    with pytest.raises(ConfigError, match="256, 512, 1024, 2048; got 768"):
        presets.kanana_2_width(768)


@pytest.mark.parametrize("width", [256, 512, 1024, 2048])
def test_the_published_family_follows_from_any_of_its_widths(width):
    for other in (256, 2048):
        grown = presets.family(presets.kanana_2_width(other), width)
        assert grown == presets.kanana_2_width(width)


def test_a_family_has_other_depths_and_its_own_width_changes_nothing():
    assert presets.family(presets.tiny(), 128) == presets.tiny()
    deep = presets.family(presets.tiny(), 256, num_layers=9)
    assert (deep.num_layers, deep.num_heads, deep.num_experts) == (9, 8, 16)
    grouped = presets.family(presets.kanana_8b(), 2048)
    assert (grouped.num_heads, grouped.num_kv_heads) == (16, 4)


@pytest.mark.parametrize("width", [0, 16, 100])
def test_a_width_at_which_counts_are_not_whole_is_refused(width):
    with pytest.raises(ConfigError, match=f"no whole number at width {width}"):
        presets.family(presets.tiny(), width)


def test_a_width_with_too_few_experts_is_refused():
    many_heads = dataclasses.replace(presets.tiny(), num_heads=8)
    assert presets.family(many_heads, 32).num_experts == 2
    with pytest.raises(ConfigError, match="would have 1 experts, and a token goes to 2"):
        presets.family(many_heads, 16)
