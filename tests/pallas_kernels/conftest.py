"""`pytest -m gpu` keeps the GPU that other tests hide; without a Hopper one its tests skip.

Tests marked aot compile for TPUs that are not there; without libtpu they skip.
"""

import importlib.util
import os

import jax
import pytest


def pytest_configure(config):
    if config.getoption("markexpr") == "gpu":
        jax.config.update("jax_platforms", os.environ.get("JAX_PLATFORMS") or None)


@pytest.hookimpl(tryfirst=True)  # before fixtures draw large inputs
def pytest_runtest_setup(item):
    if item.get_closest_marker("gpu"):
        device = jax.devices()[0]
        if getattr(device, "compute_capability", None) != "9.0":
            pytest.skip(f"needs a Hopper GPU, JAX runs on {device.device_kind}")
    if item.get_closest_marker("aot") and importlib.util.find_spec("libtpu") is None:
        pytest.skip("needs libtpu: make aot-test")
