"""What "auto" stands for: a pure function of model, batch and device."""

import dataclasses

import pytest

from kanana_jax import config
from kanana_jax.model import presets
from kanana_jax.train import choices

AUTO = config.ExecutionConfig()


ONE = {"data": 1, "fsdp": 1, "expert": 1, "context": 1, "tensor": 1}
H100 = 80 * 2**30


def chosen(platform, *, num_layers=4, execution=AUTO, memory=2**34):
    shape = dataclasses.replace(presets.tiny(64), num_layers=num_layers)
    return choices.chosen(execution, shape, 8, 128, ONE, choices.Device(platform, memory))


@pytest.mark.parametrize(
    ("platform", "num_layers", "scan_layers", "chunk_tokens"),
    [
        ("cpu", 4, True, 4096),
        ("tpu", 4, True, 4096),
        ("tpu", 48, True, 4096),
        ("gpu", 4, False, 16_384),
        ("gpu", 8, False, 16_384),
        ("gpu", 9, True, 16_384),
    ],
)
def test_what_is_chosen_for_a_device(platform, num_layers, scan_layers, chunk_tokens):
    found = chosen(platform, num_layers=num_layers)
    assert (found.scan_layers, found.loss_chunk_tokens) == (scan_layers, chunk_tokens)
    assert found.accumulation_steps == 1


@pytest.mark.parametrize("platform", ["cpu", "gpu", "tpu"])
def test_what_is_said_stays_and_nothing_else_changes(platform):
    said = config.ExecutionConfig(
        scan_layers=False,
        loss_chunk_tokens=7,
        accumulation_steps=4,
        remat="full",
        attention_implementation="reference",
        deterministic=True,
    )
    assert chosen(platform, execution=said) == said
    found = chosen(platform, execution=dataclasses.replace(said, scan_layers="auto"))
    assert dataclasses.replace(found, scan_layers=False) == said


def test_nothing_but_kernels_and_the_exchange_is_left_to_later():
    """Those are chosen where an op is called, by its shapes; the step is compiled for the rest."""
    fields = {
        field.name for field in dataclasses.fields(AUTO) if getattr(AUTO, field.name) == "auto"
    }
    left = {name for name in fields if getattr(chosen("cpu"), name) == "auto"}
    assert left == {
        "attention_implementation",
        "grouped_matmul_implementation",
        "expert_exchange",
    }


def test_these_devices_are_cpus():
    assert choices.here().platform == "cpu"


def slice_of_30b(
    num_rows, memory, execution=AUTO, *, keeps_average=False, is_taught=False, **sizes
):
    """Three layers of Kanana-2-30B's widths on rows of 4096 tokens, and a teacher like it."""
    shape = dataclasses.replace(presets.kanana_2_30b_a3b(), num_layers=3)
    device = choices.Device("gpu", memory)
    return choices.chosen(
        execution,
        shape,
        num_rows,
        4096,
        ONE | sizes,
        device,
        keeps_average=keeps_average,
        teacher=shape if is_taught else None,
    )


def test_a_large_vocabulary_takes_smaller_chunks_of_a_smaller_memory():
    chunks = [slice_of_30b(16, memory).loss_chunk_tokens for memory in (H100, H100 / 2, H100 / 4)]
    assert chunks == [16_384, 8192, 4096]
    assert slice_of_30b(16, None).loss_chunk_tokens == 4096


def test_a_teacher_takes_smaller_chunks_and_its_own_weights():
    """On an H200 a step of 16,384-token chunks took 1.48 times its memory without a teacher."""
    assert slice_of_30b(16, H100 * 1.75, is_taught=True).loss_chunk_tokens == 8192
    assert slice_of_30b(16, H100, is_taught=True).loss_chunk_tokens == 4096
    small = dataclasses.replace(AUTO, loss_chunk_tokens=4096)
    alone, taught = (slice_of_30b(22, H100, small, is_taught=one) for one in (False, True))
    assert (alone.accumulation_steps, taught.accumulation_steps) == (1, 2)


def test_micro_batches_are_the_fewest_that_fit():
    """16 rows take 50 GiB on an H100 in one piece; 64 would take more than it has."""
    assert slice_of_30b(16, H100).accumulation_steps == 1
    more = slice_of_30b(64, H100).accumulation_steps
    assert 1 < more < 64 and 64 % more == 0
    assert slice_of_30b(64, H100, data=4).accumulation_steps == 1
    recomputed = dataclasses.replace(AUTO, remat="full")
    assert slice_of_30b(64, H100, recomputed).accumulation_steps == 1
    assert slice_of_30b(64, H100 / 4).accumulation_steps == 64  # nothing fits: the smallest pieces
    assert slice_of_30b(64, None).accumulation_steps == 1
    averaging = slice_of_30b(20, H100, keeps_average=True).accumulation_steps
    assert (slice_of_30b(20, H100).accumulation_steps, averaging) == (1, 2)
