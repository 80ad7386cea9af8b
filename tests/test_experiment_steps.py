"""The steps that experiments train with: how many are compiled, and that each can be taken."""

import dataclasses

import jax
import pytest

from kanana_jax import config, main, parallel
from kanana_jax.jobs import (
    calibration,
    distillation,
    drawn_images,
    online_preference,
    pipeline,
    preference,
    pretrain,
    rejection,
    reward,
    rl,
    runs,
    sft,
    sound_chats,
    sweep,
)
from kanana_jax.model import presets
from kanana_jax.train import step_functions
from kanana_jax.workdir import Run

_JOBS = {
    pretrain.Config: pretrain.JOB,
    sft.Config: sft.JOB,
    preference.Config: preference.JOB,
    reward.Config: reward.JOB,
    rejection.Config: rejection.JOB,
    online_preference.Config: online_preference.JOB,
    calibration.Config: calibration.JOB,
    rl.Config: rl.JOB,
    distillation.Config: distillation.JOB,
    drawn_images.Config: drawn_images.JOB,
    sound_chats.Config: sound_chats.JOB,
}


_SHAPE = presets.tiny(vocab_size=258)
_TRAIN_NOTHING = {"speech_serving"}
_TRAINED = sorted({*main.experiment_names()} - _TRAIN_NOTHING)

# Steps that an experiment compiles, where it is more than one.
_NUM_STEPS = {
    "muon_stress": 4,
    "muon_stress_h100": 4,
    "router_balance": 4,
    "batch_ramp": 6,  # two arms have two batch sizes each
    "weight_average": 2,
    "lr_transfer": 12,  # four rules at three widths
    "lr_transfer_h100": 12,  # three rules at four widths
    "fp8_parity": 8,
    "fp8_parity_h100": 8,
    "agentic": 2,
    "rmsnorm": 6,
    "rmsnorm_adamw": 6,
    "polar_express_late": 3,
    "clip_granularity": 3,
    "stabilisers": 4,
    "sparsity_law": 4,
    "head_count": 3,
    "atlas": 4,  # one for each width
    "atlas_h100": 4,
    "mid_training": 2,
    "mid_training_h100": 2,
    "kanana_post": 5,  # base, mid, all on conversations, reward, both on preferences
    "kanana_post_h100": 4,  # base and mid share theirs
    "rl_logic": 5,  # base, more, and three arms with losses of their own
    "spurious_rewards": 3,  # the base, the leaky one, and all that are rewarded
    "muon_rl": 5,  # the base, and four arms
    "cascade": 7,  # the base, it and half of it measured, both taught, as long as one, scratch
    "prune_distill": 8,  # the base, it measured, five arms and a new model, from scratch
    "depth_upscaling": 7,  # the parent, it again, starts and the grown models, three from scratch
    "prune_distill_h100": 8,
    "depth_upscaling_h100": 7,
    "distill_smollm2": 5,  # the teacher measured, and four arms
    "distill_small": 6,  # the teacher, and five arms
    "rl_tracks": 4,  # the base, tracks, both in twice as many steps, and what is only measured
    "rl_routing": 8,  # the base, three corrections with and without replay, float32
    "trace_mismatch": 3,  # bases, their text, and all that are rewarded
}


_LEFT_TO_LONG = {
    *("prune_distill_h100", "depth_upscaling_h100", "lr_transfer_h100"),
    *("prune_distill", "cascade", "rl_routing", "fp8_parity", "rmsnorm", "rmsnorm_adamw"),
    *("polar_express_late", "clip_granularity", "stabilisers", "sparsity_law", "head_count"),
    *("atlas", "tune_or_scratch", "distill_smollm2", "lr_transfer", "muon_rl", "batch_ramp"),
    *("router_balance", "weight_average", "staged_pretraining", "mid_training", "curation"),
    *("rl_logic", "preference_small", "reward_small", "sft_small", "rephrase", "agentic"),
    *("speech_heard", "continue_from_hf"),
}  # fmt: skip


def _of_usual_schedule(step):
    """Steps that differ in their schedule alone differ in numbers and no arrays."""
    optimizer = dataclasses.replace(step.optimizer, schedule=config.ScheduleConfig())
    return dataclasses.replace(step, num_steps=0, optimizer=optimizer)


def _but_sizes(step):
    """What steps have in common that differ in sizes, and in what is chosen by sizes, alone."""
    usual = dataclasses.replace(
        _of_usual_schedule(step),
        model=_SHAPE,
        execution=config.ExecutionConfig(precision=step.execution.precision),
        teacher=step.teacher and _SHAPE,
        batch_size=1,
        seq_len=1,
        rates=(),
    )
    is_latent, has_experts = step.model.kv_lora_rank is not None, step.model.num_moe_layers > 0
    return usual, is_latent, has_experts, bool(step.rates)


@pytest.fixture(scope="module")
def taken():
    """Steps that an experiment has taken: those of several are traced once."""
    return set()


def _layers_and_heads(model):
    """Of the decoder, and of the encoders behind it; the most heads of any."""
    all_of_them = (model, *(one for one in (model.vision, model.audio) if one is not None))
    num_layers = sum(one.num_layers for one in all_of_them)
    return num_layers, max(one.num_heads for one in all_of_them)


def _runs(made, folder):
    if isinstance(made, pipeline.Pipeline):
        return [run for stage in made.stages for run in stage.runs(folder / stage.name)]
    return sweep.plan(made, folder) if isinstance(made, sweep.Sweep) else [Run({}, made, folder)]


def _marks(name):
    """Most that are left to the long tests take the steps of others, at other sizes."""
    if name.endswith("_h100") or name in _LEFT_TO_LONG:
        return pytest.mark.long
    return [] if name == "muon_stress" else pytest.mark.slow


@pytest.mark.parametrize("name", _TRAINED)
def test_every_experiment_compiles_as_many_steps_as_it_should(name, tmp_path):
    assert len(_steps(name, tmp_path)) == _NUM_STEPS.get(name, 1)


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=_marks(name)) for name in _TRAINED],
)
def test_every_experiment_can_take_a_step(name, tmp_path, taken):
    """Traced with every arm's optimizer, without arrays."""
    steps = _steps(name, tmp_path)
    one_of_each = {_but_sizes(step): step for step in steps}.values()
    _take({step: steps[step] for step in one_of_each}, taken)


@pytest.mark.long
@pytest.mark.parametrize("name", _TRAINED)
def test_every_experiment_can_take_a_step_at_each_of_its_sizes(name, tmp_path, taken):
    _take(_steps(name, tmp_path), taken)


def _steps(name, folder):
    """What an experiment compiles, each with a configuration that does."""
    made = main.load_experiment(name).experiment()
    assert made.name == name
    found = [one._replace(config=one.config.with_vocab(258)) for one in _runs(made, folder)]
    return {
        step: one.config
        for one in found
        for step in runs.step_configs(_JOBS[type(one.config)], one)
    }


def _take(steps, taken):
    for step_config, cfg in steps.items():
        key = _of_usual_schedule(step_config), cfg.mesh
        if key in taken:
            continue
        built = step_functions.build(step_config, parallel.make_mesh(cfg.mesh, jax.devices()[:1]))
        after, record = built.trace().out_info
        assert jax.tree.structure(after) == jax.tree.structure(built.like)
        assert record["max_logits"].shape == _layers_and_heads(cfg.model)
        taken.add(key)
