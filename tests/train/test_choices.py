"""What "auto" stands for: a pure function of model, batch and device."""

import dataclasses

import pytest

from kanana_jax import config
from kanana_jax.model import presets
from kanana_jax.train import choices

AUTO = config.ExecutionConfig()


def chosen(platform, *, num_layers=4, execution=AUTO):
    shape = dataclasses.replace(presets.tiny(64), num_layers=num_layers)
    return choices.chosen(execution, shape, 8, 128, choices.Device(platform, 2**34))


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
