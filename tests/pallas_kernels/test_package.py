"""pallas_kernels stands alone."""

import subprocess
import sys

import pytest

from pallas_kernels.flash_attention import cases as attention_cases
from pallas_kernels.grouped_matmul import cases as matmul_cases
from pallas_kernels.moe_mlp import cases as moe_cases

PROGRAM = """
import sys
import pallas_kernels
loaded = {name.split(".")[0] for name in sys.modules}
print(sorted(loaded & {"kanana_jax", "flax", "optax", "jaxtyping"}))
"""


def test_import_loads_only_jax():
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("cases", [attention_cases, matmul_cases, moe_cases])
def test_cases_have_unique_names_and_the_same_inputs_for_the_same_seed(cases):
    names = [case.name for case in cases.CASES]
    assert len(set(names)) == len(names)
    case = cases.SMALL_CASES[1]
    first, again, other = (cases.make_inputs(case, seed) for seed in (0, 0, 1))
    assert (first[0] == again[0]).all() and (first[0] != other[0]).any()
