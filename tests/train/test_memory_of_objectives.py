"""No train step forms the logits of all its tokens at once, whatever its objective.

Read off the compiled program: no array in it is as large as tokens x vocabulary.
"""

import dataclasses
import functools
import math
import re
from typing import Any

import jax
import pytest

from kanana_jax import config, parallel
from kanana_jax.model import presets
from kanana_jax.objectives import NextToken
from kanana_jax.objectives import presets as presets_of_policies
from kanana_jax.objectives.distillation import Distillation, Teaching
from kanana_jax.objectives.dpo import dpo, dpo_norm
from kanana_jax.objectives.reward import Reward
from kanana_jax.objectives.soft_targets import ForwardKL, TopK
from kanana_jax.train import step_functions
from kanana_jax.train.step_config import StepConfig

ROWS, SEQ_LEN, VOCAB = 8, 256, 4096  # 2,048 tokens
OBJECTIVES = {
    "sft": NextToken(),
    "dpo_cached": dpo(0.1, reference="cached"),
    "dpo_computed": dpo(0.1, sft_weight=0.1),
    "dpo_norm_cached": dpo_norm(5.0, sft_weight=0.1, reference="cached"),
    "reward": Reward(),
    "forward_kl": Distillation(Teaching(ForwardKL()), ce_weight=0.5),
    "top_k_live": Distillation(Teaching(TopK(8))),
    "top_k_cached": Distillation(Teaching(TopK(8), is_live=False)),
    "ppo": presets_of_policies.ppo(kl="loss_k2", kl_weight=0.1, has_temperature=True),
}
_OTHERS = ("dpo_cached", "dpo_computed", "ppo", "dpo_norm_cached", "reward")
OTHERS = [pytest.param(name, marks=pytest.mark.long) for name in _OTHERS]


def _teacher(objective: Any, student: config.ModelConfig) -> config.ModelConfig | None:
    is_live = objective.teaching is not None and objective.teaching.is_live
    return dataclasses.replace(student, hidden_size=48) if is_live else None


@functools.cache
def compiled(name: str, loss_chunk_tokens: int = 256) -> Any:
    """The train step of a model whose other arrays are small."""
    objective = OBJECTIVES[name]
    shape = dataclasses.replace(
        presets.tiny(VOCAB), hidden_size=32, num_layers=1, num_dense_layers=1, num_heads=1,
        intermediate_size=32,
        scalar_head=objective.reads_scalars or objective.critic is not None,
    )  # fmt: skip
    cfg = StepConfig(
        model=shape,
        execution=config.ExecutionConfig(
            compute_dtype="float32", loss_chunk_tokens=loss_chunk_tokens
        ),
        optimizer=config.OptimizerConfig(name="adamw"),
        guard=config.GuardConfig(),
        objective=objective,
        teacher=_teacher(objective, shape),
        num_steps=10,
        batch_size=ROWS,
        seq_len=SEQ_LEN,
    )
    mesh = parallel.make_mesh(config.MeshConfig(), jax.devices()[:1])
    return step_functions.build(cfg, mesh).lower().compile()


def largest(program: str) -> int:
    """Elements of the largest array in the text of a compiled program."""
    shapes = re.findall(r"\b(?:pred|[a-z]+\d+)\[([\d,]+)\]", program)
    assert len(shapes) > 100
    return max(math.prod(map(int, shape.split(","))) for shape in shapes)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sft", *OTHERS])
def test_no_array_holds_the_logits_of_all_tokens(name):
    assert largest(compiled(name).as_text()) < ROWS * SEQ_LEN * VOCAB


@pytest.mark.long
@pytest.mark.parametrize("name", ["forward_kl", "sft", "dpo_cached"])
def test_an_array_does_when_a_chunk_is_all_tokens(name):
    """Shows that what the test above looks for would be there."""
    assert largest(compiled(name, ROWS * SEQ_LEN).as_text()) >= ROWS * SEQ_LEN * VOCAB


@pytest.mark.parametrize("name", ["dpo_cached", "dpo_norm_cached"])
@pytest.mark.long
def test_preference_training_with_a_cached_reference_needs_the_memory_of_sft(name):
    memory, of_sft = (compiled(one).memory_analysis() for one in (name, "sft"))
    assert memory.temp_size_in_bytes < 1.15 * of_sft.temp_size_in_bytes
    # One float32 number per token comes with the batch, and no second model.
    more = memory.argument_size_in_bytes - of_sft.argument_size_in_bytes
    assert abs(more - 4 * ROWS * SEQ_LEN) < 1024
    of_computed = compiled("dpo_computed").memory_analysis()
    num_bytes = 4 * 2 * VOCAB * 32  # embedding and head of the reference
    assert of_computed.argument_size_in_bytes > of_sft.argument_size_in_bytes + num_bytes
