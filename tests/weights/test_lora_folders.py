"""Adapters of runs and of PEFT folders, added to the models that they belong to."""

import dataclasses
import functools
import json
import os
import re
import subprocess
from pathlib import Path

import hf_folder
import jax
import jax.numpy as jnp
import numpy as np
import parity_cases
import pytest
from safetensors.numpy import load_file, save_file
from small_models import CFG, folder, random_weights, restored, run_of

from kanana_jax import config, convert, model
from kanana_jax.checkpoint import CheckpointError
from kanana_jax.model import lora as adapters
from kanana_jax.model import presets
from kanana_jax.train import trained
from kanana_jax.weights import fingerprint, hf, lora, peft, run_folder, source, whole

HERE = Path(__file__).parent
LORA = config.LoraConfig(rank=2, alpha=3.0, experts_rank=3)
PREFIX = "base_model.model."


def _random(tree, seed=2):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: jnp.asarray(rng.normal(0, 0.3, x.shape), jnp.float32), tree)


@pytest.fixture
def base(tmp_path):
    return folder(tmp_path / "base", random_weights(), tokenizer_config="{}")


def _run(workdir, base, name=None):
    """A run that has trained adapters and, beside them, the router's bias; and its state."""
    made = trained.start(CFG, LORA, random_weights(), jax.random.key(0))
    state = made._replace(params=_random(made.params), buffers=_random(made.buffers))
    settings = {
        "lora": dataclasses.asdict(LORA),
        "train": {"init_from": str(base), "checkpoint_dir": ""},
    }
    notes = {"base": fingerprint.of_folder(base) if name is None else name}
    content = {3: {"step": jnp.int32(3), "weights": state}}
    return run_of(workdir, content, notes, **settings), state


def _assert_close(found, wanted):
    close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5)
    jax.tree.map(close, found, wanted)


@pytest.mark.long
def test_the_model_that_a_run_made_is_written_with_its_adapters_in_it(base, tmp_path):
    run, state = _run(tmp_path / "work", base)
    convert.main([f"--from-run={run}", f"--to={tmp_path / 'to'}"])
    found = restored(tmp_path / "to")
    np.testing.assert_array_equal(found.buffers["router_bias"], state.buffers["router_bias"])
    adapted = trained.whole(CFG, LORA, state, {trained.NAME: random_weights()})
    for stack, layers in adapted.adapters.items():
        wanted = adapters.applied(adapted.params[stack], layers, jnp.float32)
        _assert_close(found.params[stack], wanted)
        assert np.abs(wanted["mlp"]["w_down"] - adapted.params[stack]["mlp"]["w_down"]).max() > 0.1
    np.testing.assert_array_equal(found.params["embed"], adapted.params["embed"])


@pytest.mark.slow
def test_a_folder_of_peft_and_the_run_itself_give_the_same_model(base, tmp_path):
    run, _ = _run(tmp_path / "work", base)
    convert.main([f"--from-run={run}", f"--to={tmp_path / 'merged'}"])
    convert.main([f"--from-run={run}", f"--to-peft={tmp_path / 'peft'}"])
    wanted = restored(tmp_path / "merged")
    for added in (run, tmp_path / "peft"):
        to = tmp_path / f"to-{added.name}"
        convert.main([f"--adapters={added}", f"--from={base}", f"--to={to}"])
        found = restored(to)
        _assert_close(found.params, wanted.params)
        assert (to / "tokenizer_config.json").read_text() == "{}"
    names = load_file(tmp_path / "peft" / peft.WEIGHTS_NAME)
    assert len(names) == 2 * (CFG.num_layers * 4 + 3 + 3 + 3 * CFG.num_experts)
    place = f"{PREFIX}model.layers.1.mlp.experts.3.up_proj"
    assert names[f"{place}.lora_A.weight"].shape == (3, CFG.hidden_size)
    assert names[f"{place}.lora_B.weight"].shape == (CFG.moe_intermediate_size, 3)
    said = json.loads((tmp_path / "peft" / peft.CONFIG_NAME).read_text())
    for name in names:
        module = name.removeprefix(PREFIX).rpartition(".lora_")[0]
        assert re.fullmatch(said["target_modules"], module)
        own = [
            r for key, r in said["rank_pattern"].items() if re.match(rf"(.*\.)?({key})$", module)
        ]
        rank = 3 if ".experts." in module else 2
        assert (own or [said["r"]]) == [rank]
    assert said["lora_alpha"] == 3.0
    assert not re.fullmatch(said["target_modules"], "model.layers.1.mlp.gate")


def _peft(path, shapes, chosen, *, rank=2, seed=3, **fields):
    """A folder as PEFT writes it, of the modules that `chosen` says; and its numbers."""
    path.mkdir()
    rng, tensors = np.random.default_rng(seed), {}
    for name, shape in shapes.items():
        module = name.removesuffix(".weight")
        if chosen(module) and len(shape) == 2:
            own = rank + (".experts." in module)
            a, b = rng.normal(0, 0.3, (own, shape[1])), rng.normal(0, 0.3, (shape[0], own))
            tensors[f"{PREFIX}{module}.lora_A.weight"] = a.astype(np.float32)
            tensors[f"{PREFIX}{module}.lora_B.weight"] = b.astype(np.float32)
    save_file(tensors, path / peft.WEIGHTS_NAME)
    known = {"peft_type": "LORA", "r": rank + 1, "lora_alpha": 8, "bias": "none"}
    known["rank_pattern"] = {r".*self_attn\..*": rank, r".*\.mlp\.[a-z]+_proj": rank}
    (path / peft.CONFIG_NAME).write_text(json.dumps(known | fields))
    return tensors


def _is_projection(module):
    return module.endswith("_proj") or module.endswith("_mqa")


@pytest.mark.parametrize("case", ["half_rotary_q_lora_yarn", "qwen3_tied"])
def test_adapters_from_elsewhere_are_added_as_their_matrices_say(case, tmp_path):
    fields = parity_cases.CASES[case]
    tensors = hf_folder.tensors(fields)
    hf_folder.write(tmp_path / "hf", fields, tensors)
    shapes = {name: x.shape for name, x in tensors.items()}
    pairs = _peft(
        tmp_path / "peft", shapes, _is_projection, use_rslora=True,
        alpha_pattern={"self_attn.o_proj": 4},
    )  # fmt: skip
    by_hand = dict(tensors)
    for name in tensors:
        module = f"{PREFIX}{name.removesuffix('.weight')}"
        if f"{module}.lora_A.weight" in pairs:
            rank = len(pairs[f"{module}.lora_A.weight"])
            scale = (4 if name.endswith("o_proj.weight") else 8) / rank**0.5
            product = pairs[f"{module}.lora_B.weight"] @ pairs[f"{module}.lora_A.weight"]
            by_hand[name] = tensors[name] + np.float32(scale) * product
    assert len(pairs) > 10
    hf_folder.write(tmp_path / "by-hand", fields, by_hand)
    found = whole.load(source.open_source(tmp_path / "hf", tmp_path / "peft"))
    _assert_close(found, whole.load(source.open_source(tmp_path / "by-hand")))


def test_some_layers_may_have_adapters_and_others_none(tmp_path):
    fields = parity_cases.CASES["all_dense"]
    tensors = hf_folder.tensors(fields)
    hf_folder.write(tmp_path / "hf", fields, tensors)
    shapes = {name: x.shape for name, x in tensors.items()}
    _peft(tmp_path / "peft", shapes, lambda module: module.endswith("layers.1.self_attn.o_proj"))
    cfg = hf.open_directory(tmp_path / "hf").cfg
    (pair,) = peft.read(tmp_path / "peft", cfg).values()
    assert [bool(np.any(pair.product(layer))) for layer in range(3)] == [False, True, False]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ({"use_dora": True}, "use_dora must be False, got True"),
        ({"peft_type": "IA3"}, "peft_type must be 'LORA', got 'IA3'"),
        ({"modules_to_save": ["score"]}, "modules_to_save must be None"),
        ({"lora_alpha": None}, "expected lora_alpha, a number, got None"),
        ("shape", r"kv_b_proj: expected lora_A of \(rank, 16\) and lora_B of"),
        ("name", "must hold pairs lora_A and lora_B of this model's matrices, got .*lm_head"),
    ],
)
def test_folders_that_cannot_be_read_say_why(damage, message, tmp_path):
    fields = parity_cases.CASES["plain"]
    shapes = hf_folder.shapes(fields)
    hf_folder.write(tmp_path / "hf", fields, hf_folder.tensors(fields))
    if damage == "shape":
        shapes["model.layers.0.self_attn.kv_b_proj.weight"] = (28, 17)
    is_chosen = (lambda m: m == "lm_head") if damage == "name" else lambda m: "kv_b" in m
    said = damage if isinstance(damage, dict) else {}
    _peft(tmp_path / "peft", shapes, is_chosen, **said)
    with pytest.raises(CheckpointError, match=message):
        source.open_source(tmp_path / "hf", tmp_path / "peft")


def test_adapters_of_another_model_are_refused_and_nothing_is_written(base, tmp_path):
    run, _ = _run(tmp_path / "work", base, name="another")
    to = tmp_path / "to"
    for write in (run_folder.import_run, run_folder.export_peft):
        with pytest.raises(CheckpointError, match="belong to the model another, got"):
            write(run, to)
    other = folder(tmp_path / "other", random_weights(5))
    with pytest.raises(CheckpointError, match="belong to the model another, got"):
        source.open_source(other, run)
    assert not to.exists()


def test_a_run_that_trained_the_model_itself_has_no_adapters(base, tmp_path):
    run = run_of(tmp_path / "work", {3: {"weights": random_weights()}})
    with pytest.raises(CheckpointError, match=r"it was trained with lora\.rank=0"):
        run_folder.export_peft(run, tmp_path / "to")


def test_a_name_is_that_of_the_numbers_and_of_the_shape(tmp_path):
    first = folder(tmp_path / "first", random_weights())
    name = fingerprint.of_folder(first)
    assert fingerprint.of_folder(folder(tmp_path / "copy", random_weights())) == name
    assert fingerprint.of_folder(folder(tmp_path / "other", random_weights(1))) != name
    theta = dataclasses.replace(CFG, rope_theta=500.0)
    assert fingerprint.of_folder(folder(tmp_path / "rope", random_weights(), theta)) != name


# transformers 5 holds experts in one array, and PEFT 0.21 takes names of every MLP for theirs.
_READ_BY_PEFT = {
    "q_lora": lambda m: "self_attn" in m,
    "raw_weights": lambda m: "self_attn" in m or ".experts." in m,
    "half_rotary_q_lora_yarn": lambda m: "self_attn" in m,
    "llama_llama3_rope": _is_projection,
    "qwen3_tied": _is_projection,
}


@pytest.mark.parity
def test_models_with_adapters_compute_what_peft_does(tmp_path):
    """Folders that are read, and then written: PEFT computes the same with both."""
    python = Path(os.environ.get("PARITY_PYTHON", HERE.parents[1] / ".venv-parity/bin/python"))
    if not python.exists():
        pytest.skip(f"no {python}")
    folders, wanted = [], {}
    for case, chosen in _READ_BY_PEFT.items():
        fields = parity_cases.CASES[case]
        tensors = hf_folder.tensors(fields)
        base = hf_folder.write(tmp_path / case, fields, tensors)
        shapes = {name: x.shape for name, x in tensors.items()}
        modules = [name.removesuffix(".weight") for name in shapes]
        names = {module.rpartition(".")[2] for module in modules if chosen(module)}
        is_read = lambda m, chosen=chosen: chosen(m) and _is_projection(m)  # noqa: E731
        given = tmp_path / f"{case}-peft"
        targets = sorted(filter(_is_projection, names))
        _peft(given, shapes, is_read, target_modules=targets, task_type="CAUSAL_LM")
        opened = source.open_source(base, given)
        # What is written belongs to files that an export makes, which are interleaved.
        if fields.get("rope_interleave", True):
            pairs = peft.read(given, opened.cfg)
            given = tmp_path / f"{case}-again"
            peft.write(given, opened.cfg, pairs, base=str(base))
        folders += [base, given]
        apply = jax.jit(functools.partial(model.apply, opened.cfg, execution=presets.LAPTOP))
        inputs = model.Inputs.of_tokens(jnp.asarray(parity_cases.TOKENS, jnp.int32))
        weights = jax.tree.map(jnp.asarray, whole.load(opened))
        wanted[case] = apply(weights, inputs)[0]
    out = tmp_path / "logits.npz"
    script = HERE / "peft_logits.py"
    subprocess.run([python, script, out, *folders], check=True)
    found = np.load(out)
    for case, logits in wanted.items():
        np.testing.assert_allclose(found[case], logits, rtol=0, atol=1e-3, err_msg=case)


def test_products_are_those_of_the_layer_asked_for():
    site = lora.sites(CFG, LORA)["moe_layers/mlp/w_down"]
    a, b = (_random(np.zeros(one.shape), seed) for seed, one in enumerate((site.a, site.b)))
    found = lora.Pair(a, b, 0.5, site).product(0)
    np.testing.assert_allclose(found, 0.5 * a[0] @ b[0], rtol=1e-5, atol=1e-6)
