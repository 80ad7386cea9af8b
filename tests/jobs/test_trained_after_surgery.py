"""Models that were cut or grown are models like others: they train, go on, decode and leave."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
import tiny_jobs

from kanana_jax import config, convert, generate, model, parallel
from kanana_jax.batch import Batch
from kanana_jax.jobs import pretrain
from kanana_jax.model import presets, surgery
from kanana_jax.report import metrics
from kanana_jax.train import state
from kanana_jax.weights import hf, hf_config, native, source, whole

# Everything that a cut or a growth can meet, in sizes that a mesh of 2 x 2 x 2 divides.
LATENT = dataclasses.replace(
    presets.tiny(258),
    hidden_size=32,
    num_layers=4,
    num_dense_layers=1,
    num_heads=4,
    q_lora_rank=16,
    kv_lora_rank=16,
    qk_nope_head_dim=8,
    qk_rope_head_dim=4,
    v_head_dim=8,
    intermediate_size=32,
    moe_intermediate_size=16,
    num_experts=8,
    num_experts_per_token=2,
    num_shared_experts=2,
)
# Dense, like the Hugging Face architectures with such attention that are known here.
GROUPED = dataclasses.replace(
    LATENT,
    num_dense_layers=4,
    moe_intermediate_size=0,
    num_experts=0,
    num_experts_per_token=0,
    num_shared_experts=0,
    routed_scaling_factor=1.0,
    q_lora_rank=None,
    kv_lora_rank=None,
    num_kv_heads=2,
    num_heads=8,
    qk_nope_head_dim=0,
    v_head_dim=4,
)
CUTS = {
    "num_layers": 3,
    "hidden_size": 24,
    "num_heads": 2,
    "kv_lora_rank": 12,
    "q_lora_rank": 12,
    "intermediate_size": 24,
    "moe_intermediate_size": 12,
    "num_experts": 4,
    "num_shared_experts": 1,
}
ALL = ["--prune", *(f"{field}={size}" for field, size in CUTS.items())]
OF_GROUPED = ["--prune", "num_heads=4", "hidden_size=24", "num_layers=3"]
GROWN = ["--grow", "stack=1", "interpose=1", "interpose_zero=1", "experts=2", "--noise=0.01"]
MESH = {"fsdp": 2, "expert": 2, "tensor": 2}


@functools.cache
def _start(shape):
    return jax.tree.map(np.asarray, model.init(shape, jax.random.key(0)))


@functools.cache
def _made():
    """The shape and the weights that each cut and each growth makes of one model, by name."""
    tokens = np.random.default_rng(0).integers(0, 258, (2, 16), np.int32)
    inputs = [model.Inputs.of_tokens(tokens)]
    seen = surgery.observe(LATENT, _start(LATENT), inputs, presets.LAPTOP)
    found = {}
    for field, size in CUTS.items():
        if field == "num_experts":
            cut = surgery.cut_experts(LATENT, _start(LATENT), seen, size, surgery.SCORES["reap"])
        else:
            cut = surgery.CUTS[field](LATENT, _start(LATENT), seen, size)
        found[field] = cut.cfg, cut.weights
    for name, grow in (
        ("stack", surgery.stack),
        ("interpose", surgery.interpose),
        ("interpose_zero", functools.partial(surgery.interpose, is_zero=True)),
        ("experts", surgery.duplicate_experts),
    ):
        found[name] = grow(LATENT, _start(LATENT), 2 if name == "experts" else 1)
    return found


@pytest.mark.long
@pytest.mark.parametrize("name", [*CUTS, "stack", "interpose", "interpose_zero", "experts"])
def test_what_every_change_makes_is_spread_over_a_mesh_and_named_for_export(name):
    """Nothing is compiled: shapes, axes and names go together."""
    shape, weights = _made()[name]
    assert shape != LATENT
    mesh = parallel.make_mesh(config.MeshConfig(data=1, **MESH))
    parallel.check(shape, 8, 16, 1, mesh.shape)
    like = state.abstract_weights(shape, mesh)
    assert jax.tree.map(np.shape, weights) == jax.tree.map(lambda x: x.shape, like)
    fields = hf_config.to_hf(shape, {"max_position_embeddings": 64}, "float32")
    again = hf_config.from_hf(fields)
    assert dataclasses.replace(again, init_std=shape.init_std) == shape


@pytest.mark.long
@pytest.mark.parametrize(
    ("shape", "change"),
    [(LATENT, ALL), (LATENT, GROWN), (GROUPED, OF_GROUPED)],
    ids=["cut", "grown", "grouped"],
)
def test_a_changed_model_trains_resumes_decodes_and_leaves(
    shape, change, text_file, tmp_path, monkeypatch
):
    start = tmp_path / "start"
    with native.new_directory(start) as folder:
        parts = jax.tree.map(native.streamed, native.stored(_start(shape)))
        native.write(folder, native.Description(shape, {}, "float32"), parts)
    if "--prune" in change:
        change = [*change, "--calibrate", str(text_file), "--samples=4", "--length=32"]
    made = tmp_path / "made"
    convert.main([*change, f"--from={start}", f"--to={made}"])
    cfg = tiny_jobs.pretraining(text_file, mesh=config.MeshConfig(data=1, **MESH))
    cfg = cfg.edited([
        f"train.init_from={made}", "train.num_steps=2", "train.checkpoint_interval_steps=1",
        f"data.cache_dir={tmp_path / 'cache'}",
    ])  # fmt: skip

    def losses(name):
        pretrain.run(cfg, tmp_path / name)
        return metrics.read_metrics(tmp_path / name / "run" / metrics.METRICS_NAME)["loss"].values_N

    wanted = losses("whole")
    real = pretrain.TextSource.batch

    def dies(of, number, weights):
        if number == 1:
            raise tiny_jobs.Killed
        return real(of, number, weights)

    with monkeypatch.context() as patch, pytest.raises(tiny_jobs.Killed):
        patch.setattr(pretrain.TextSource, "batch", dies)
        losses("parts")
    np.testing.assert_array_equal(losses("parts"), wanted)

    trained, exported = tmp_path / "trained", tmp_path / "exported"
    convert.main([f"--from-run={tmp_path / 'whole' / 'run'}", f"--to={trained}"])
    convert.main([f"--from={trained}", f"--to-hf={exported}", "--max-position-embeddings=64"])
    assert native.read_description(trained).cfg == native.read_description(made).cfg
    weights = whole.load(source.open_source(trained))
    reloaded, wanted_cfg = hf.open_directory(exported), native.read_description(made).cfg
    jax.tree.map(np.testing.assert_array_equal, whole.load(source.open_source(exported)), weights)
    assert dataclasses.replace(reloaded.cfg, init_std=wanted_cfg.init_std) == wanted_cfg
    _assert_decodes_what_the_forward_pass_says(trained, weights)


def _assert_decodes_what_the_forward_pass_says(folder, weights):
    loaded = generate.load(folder, "float32")
    prompt, many = [256, *b"muon clip"], 4
    request = generate.Request(
        prompt=prompt, max_tokens=many, sampling=generate.Sampling(temperature=0.0),
        ignores_eos=True,
    )  # fmt: skip
    (answer,) = generate.answers(loaded.engine(num_rows=1, length=32), [request])
    batch = Batch.of_tokens(np.array([[*prompt, *answer.ids]], np.int32))
    logits, _ = model.apply(loaded.cfg, weights, batch.inputs, presets.LAPTOP)
    says = np.argmax(logits[0, len(prompt) - 1 :], axis=-1)
    assert list(answer.ids) == says.tolist()[:many]
