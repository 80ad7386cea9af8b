"""Eight CPU devices for every test, set before any backend starts; notebooks as tests run them."""

import json

import jax
import pytest

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)


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
