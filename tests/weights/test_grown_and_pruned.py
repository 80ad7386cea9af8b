"""Folders of grown and pruned models: what the command makes is what the functions make."""

import dataclasses

import hf_folder
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import parity_cases
import pytest
from small_models import CFG, folder, random_weights

from kanana_jax import config, convert
from kanana_jax.data import calibration
from kanana_jax.model import surgery
from kanana_jax.weights import hf, native, source, whole


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.jsonl"
    path.write_text("".join(f'{{"text": "{"muon clips " * n}"}}\n' for n in range(1, 11)))
    return str(path)


def _assert_equal(found, wanted):
    jax.tree.map(np.testing.assert_array_equal, found, wanted)


def _exported(path):
    """The shape that a Hugging Face folder made of the model says."""
    convert.main([f"--from={path}", f"--to-hf={path}-hf", "--max-position-embeddings=64"])
    return hf.open_directory(path.with_name(f"{path.name}-hf")).cfg


@pytest.mark.long
def test_a_pruned_folder_holds_the_cuts_of_what_text_shows(tmp_path, text, capsys):
    made = random_weights()
    start = folder(tmp_path / "start", made, tokenizer_config="{}")
    arguments = ["--prune", "num_heads=3", "num_experts=6", f"--from={start}"]
    arguments += ["--calibrate", text, "--samples=9", "--length=16", "--expert-score=frequency"]
    convert.main([*arguments, f"--to={tmp_path / 'dry'}", "--dry-run"])
    told = capsys.readouterr().out.splitlines()
    assert not (tmp_path / "dry").exists()
    convert.main([*arguments, f"--to={tmp_path / 'to'}"])
    assert capsys.readouterr().out.splitlines() == told

    cfg, weights = CFG, jax.tree.map(np.asarray, made)
    execution = config.ExecutionConfig(compute_dtype="float32")
    for name, size, score in (("num_heads", 3, {}), ("num_experts", 6, "frequency")):
        batches = calibration.batches(start, config.DataConfig(paths=(text,)), 9, 16)
        seen = surgery.observe(cfg, weights, batches, execution)
        if score:
            cut = surgery.cut_experts(cfg, weights, seen, size, surgery.SCORES[score])
        else:
            cut = surgery.CUTS[name](cfg, weights, seen, size)
        cfg, weights = cut.cfg, cut.weights
        assert f"{name}={size} keeps {cut.kept:.2%} of the score" in "".join(told)
    assert native.read_description(tmp_path / "to") == native.Description(cfg, {}, "float32")
    _assert_equal(native.restore(tmp_path / "to", native.abstract(cfg, jnp.float32)), weights)
    assert (tmp_path / "to" / "tokenizer_config.json").read_text() == "{}"
    assert _exported(tmp_path / "to") == cfg


@pytest.mark.long
def test_a_grown_folder_of_16_bits_keeps_them_and_says_what_it_costs(tmp_path, capsys):
    fields = parity_cases.CASES["like_deepseek"]
    start = hf_folder.write(tmp_path / "hf", fields, hf_folder.tensors(fields, ml_dtypes.bfloat16))
    grown = ["--grow", "experts=2", "interpose_zero=2", f"--from={start}", "--noise=0.1"]
    convert.main([*grown, f"--to={tmp_path / 'to'}"])
    before, experts, last = capsys.readouterr().out.splitlines()
    opened = source.open_source(tmp_path / "to")
    old = hf.open_directory(start).cfg
    wanted = {"num_experts": 16, "num_experts_per_token": 6, "num_layers": 5}
    wanted |= {"num_expert_groups": 8, "num_groups_per_token": 4}
    assert opened.cfg == dataclasses.replace(old, **wanted)
    kept = {opened.dtype(f"moe_layers/{path}") for path in ("mlp/w_down", "mlp_norm")}
    assert kept == {np.dtype(ml_dtypes.bfloat16)}
    w_down = whole.load(opened).params["moe_layers"]["mlp"]["w_down"]
    assert w_down[0].any() and w_down[2].any()
    assert not w_down[1].any() and not w_down[3].any()
    # A layer caches its latent and its rotary key, two bytes a number.
    size = 2 * (old.kv_lora_rank + old.qk_rope_head_dim)
    assert f"{3 * size:,} bytes of bfloat16 cache" in before
    assert f"{5 * size:,} bytes of bfloat16 cache" in last
    assert experts.startswith("experts=2: ")
    assert _exported(tmp_path / "to") == opened.cfg


def test_norms_of_any_gain_become_vectors_that_are_exported(tmp_path, capsys):
    cfg = dataclasses.replace(CFG, norm_gain="scalar", zero_centered_gamma=True)
    start = folder(tmp_path / "start", made := random_weights(cfg=cfg), cfg)
    to_hf = [f"--to-hf={tmp_path / 'hf'}", "--max-position-embeddings=64"]
    with pytest.raises(SystemExit):
        convert.main([f"--from={start}", *to_hf])
    assert "make that first, with convert --vector-gains" in capsys.readouterr().err
    convert.main(["--vector-gains", f"--from={start}", f"--to={tmp_path / 'to'}"])
    assert _exported(tmp_path / "to") == CFG
    found = whole.load(source.open_source(tmp_path / "to")).params["final_norm"]
    np.testing.assert_array_equal(found, np.full(CFG.hidden_size, 1.0 + made.params["final_norm"]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--grow", "depth=2"], "grow takes stack, interpose, interpose_zero, experts"),
        (["--grow", "stack=two"], "a name, = and a number, as in stack=2; got 'stack=two'"),
        (["--grow", "interpose=2"], "between 1 and 1, the layers that can have one; got 2"),
        (["--prune", "width=2"], "prune takes num_layers, hidden_size"),
        (["--prune", "num_heads=3", "--samples=0"], "a number of at least 1, got '0'"),
        (["--grow", "stack=1", "--noise=-1"], "surgery.noise must lie in"),
        (["--prune", "num_heads=3"], "documents to calibrate with, got none"),
    ],
)
def test_what_cannot_be_done_is_refused_and_nothing_is_written(
    arguments, message, tmp_path, capsys
):
    start = folder(tmp_path / "start", random_weights())
    (tmp_path / "empty.txt").write_text("")
    if "--prune" in arguments:
        arguments = [*arguments, "--calibrate", str(tmp_path / "empty.txt")]
    with pytest.raises(SystemExit) as stopped:
        convert.main([*arguments, f"--from={start}", f"--to={tmp_path / 'to'}"])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "to").exists()


def test_calibration_takes_the_heads_of_documents_of_each_source_in_turn(tmp_path):
    for name, words in (("a", ["aaaa", "bb"]), ("b", ["cccc"] * 9)):
        lines = "".join(f'{{"text": "{word}"}}\n' for word in words)
        (tmp_path / f"{name}.jsonl").write_text(lines)
    text = config.DataConfig(paths=(str(tmp_path / "a.jsonl"), str(tmp_path / "b.jsonl")))
    first, second = calibration.batches(tmp_path, text, 10, 4)
    bos, eos = 256, 257
    assert first.tokens[:4].tolist() == [
        [bos, *b"aaa"],
        [bos, *b"ccc"],
        [bos, *b"bb", eos],
        [bos, *b"ccc"],
    ]
    assert second.segment_ids.sum(axis=1).tolist() == [4, 4, 0, 0, 0, 0, 0, 0]
    assert first.tokens.shape == second.tokens.shape == (8, 4)
