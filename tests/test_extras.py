"""What is said when an extra of the package is not installed."""

import subprocess
import sys

import pytest

from kanana_jax import extras

_COMMANDS = {
    "kanana_jax.main": "train",
    "kanana_jax.convert": "train",
    "kanana_jax.plan": "train",
    "kanana_jax.generate": "train",
    "kanana_jax.rollouts.tasks": "train",
    "kanana_jax.data.fetch_corpora": "train",
    "kanana_jax.data.curate": "train",
    "kanana_jax.synthesize": "train,synthesize",
    "kanana_jax.synthesize.agentic": "train,synthesize",
    "kanana_jax.evaluate.bits_per_byte": "train",
    "kanana_jax.evaluate.speech": "train",
    # What follows loads packages of `train`, which cannot be made absent after that.
    "kanana_jax.generate.serve": "train,serve",
    "kanana_jax.generate.serve.bench": "train,serve",
    "kanana_jax.evaluate.harness": "train,evaluate",
}
# Each command is started anew, with what its extra brings made absent.
_PROGRAM = """
import runpy, sys
for module, absent in {cases!r}:
    sys.modules |= {{name: None for name in absent.split()}}
    sys.argv = ["-m", "--help"]
    try:
        runpy.run_module(module, run_name="__main__")
    except SystemExit as ended:
        print(module, ended.code)
    for name in [name for name in sys.modules if name.startswith("kanana_jax")] + absent.split():
        del sys.modules[name]
"""
_ALL = "flax orbax grain tensorstore jinja2 tqdm jaxtyping safetensors tokenizers absl"
_OF_EXTRAS = {
    "train": _ALL,
    "train,synthesize": "httpx2",
    "train,serve": "starlette uvicorn llguidance",
    "train,evaluate": "lm_eval",
}


@pytest.mark.slow
def test_every_command_says_in_one_line_which_extra_it_needs():
    cases = [(module, _OF_EXTRAS[names]) for module, names in _COMMANDS.items()]
    program = _PROGRAM.format(cases=cases)
    answer = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=300
    )
    assert answer.stdout.split("\n")[:-1] == [f"{module} 2" for module in _COMMANDS], answer.stderr
    told = answer.stderr.splitlines()
    assert len(told) == len(_COMMANDS)
    for line, names in zip(told, _COMMANDS.values(), strict=True):
        assert f"pip install 'kanana_jax[{names}]'" in line


def test_an_import_in_a_program_raises_what_it_can_catch():
    with pytest.raises(ModuleNotFoundError, match="pip install") as caught, extras.needed("a", "b"):
        raise ModuleNotFoundError("No module named 'flax'", name="flax")
    assert caught.value.name == "flax" and "'kanana_jax[a,b]'" in str(caught.value)


@pytest.mark.parametrize("name", ["kanana_jax.nowhere", "pallas_kernels.nowhere"])
def test_a_module_of_ours_that_is_missing_is_our_own_fault(name):
    with pytest.raises(ModuleNotFoundError, match=r"^gone$"), extras.needed("train"):
        raise ModuleNotFoundError("gone", name=name)
