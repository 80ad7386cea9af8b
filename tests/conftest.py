"""Eight CPU devices for every test, set before any backend starts; notebooks as tests run them."""

import gc
import json
import os
import tempfile

import jax
import pytest

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)

# Seconds that a function took to compile; below this, reading it costs about as much.
WORTH_KEEPING_S = 0.1


def pytest_addoption(parser):
    parser.addoption(
        "--first-cases",
        action="store_true",
        help="run every test function with the first of its cases that is not left out otherwise",
    )


@pytest.hookimpl(trylast=True)  # after marks and -k have left out theirs
def pytest_collection_modifyitems(config, items):
    if not config.getoption("first_cases"):
        return
    first, others, seen = [], [], set()
    for item in items:
        function, _, _ = item.nodeid.partition("[")
        (others if function in seen else first).append(item)
        seen.add(function)
    config.hook.pytest_deselected(items=others)
    items[:] = first


def pytest_configure(config):
    """Whatever one test, worker or subprocess compiles is there for all others of this run."""
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return  # of the process that started this worker, or of who runs the tests
    folder = tempfile.TemporaryDirectory(prefix="compiled_by_tests_", ignore_cleanup_errors=True)
    config.add_cleanup(folder.cleanup)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = folder.name
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = str(WORTH_KEEPING_S)
    jax.config.update("jax_compilation_cache_dir", folder.name)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", WORTH_KEEPING_S)


def pytest_collection_finish():
    """The collector passes over what lives as long as the tests, and runs seldom: JAX allocates."""
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


@pytest.fixture
def run_notebook():
    """Runs a notebook's code cells, but for installations; gives its variables.

    Figures are open only as long as the test runs.
    """
    import matplotlib  # the kernels' tests run where it is not installed
    from matplotlib import pyplot as plt

    def run(path):
        cells = json.loads(path.read_text())["cells"]
        variables = {}
        for cell in cells:
            source = "".join(cell["source"])
            if cell["cell_type"] == "code" and not source.startswith("%pip"):
                exec(compile(source, path.name, "exec"), variables)
        return variables

    matplotlib.use("Agg")
    yield run
    plt.close("all")
