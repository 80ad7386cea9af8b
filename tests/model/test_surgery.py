"""Growth that adds nothing and cuts of dead parts leave logits as they were."""

import collections
import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import numpy_model
import pytest
from numpy_model import GROUPED, SMALL, jit

from kanana_jax import model
from kanana_jax.config import ConfigError
from kanana_jax.model import presets, surgery
from kanana_jax.model.surgery import resizing

pytestmark = pytest.mark.slow

# Everything that a cut or a growth can meet: expert groups, a query latent, raw weights.
LATENT = dataclasses.replace(
    SMALL,
    num_layers=4,
    num_dense_layers=2,
    num_heads=4,
    q_lora_rank=12,
    num_experts_per_token=2,
    num_expert_groups=2,
    num_groups_per_token=1,
    norm_topk_prob=False,
    zero_centered_gamma=True,
    rms_norm_eps=1e-9,  # an RMSNorm of fewer entries weighs it differently
)
DENSE = dataclasses.replace(
    GROUPED, num_dense_layers=3, num_heads=6, tie_embeddings=True, rms_norm_eps=1e-9
)
# What `dead` makes dead, by the size that is left.
LEFT = {
    LATENT: {
        "num_layers": 3,
        "hidden_size": 24,
        "num_heads": 3,
        "kv_lora_rank": 10,
        "q_lora_rank": 9,
        "intermediate_size": 30,
        "moe_intermediate_size": 18,
        "num_experts": 6,
        "num_shared_experts": 1,
    },
    DENSE: {"num_layers": 2, "hidden_size": 24, "num_heads": 4, "intermediate_size": 30},
}
CASES = [(cfg, field) for cfg, left in LEFT.items() for field in left]
IDS = [f"{'latent' if cfg is LATENT else 'grouped'}-{field}" for cfg, field in CASES]
CLOSE = 1e-5  # float32 weights of changed scale or rotation, after a few layers


@functools.lru_cache
def inputs():
    """The last tokens are padding."""
    tokens = np.random.default_rng(5).integers(0, SMALL.vocab_size, (2, 10), np.int32)
    made = model.Inputs.of_tokens(tokens)
    is_padding = np.arange(10) >= np.array([[10], [7]])
    return made._replace(segment_ids=np.where(is_padding, 0, 1).astype(np.int32))


def logits(cfg, made):
    """Logits of all but padding, in float64 by the slow model, which compiles nothing."""
    params = jax.tree.map(lambda x: np.asarray(x, np.float64), made.params)
    bias_LE = np.asarray(made.buffers["router_bias"])
    rows = zip(inputs().tokens, inputs().positions, inputs().segment_ids, strict=True)
    found = [numpy_model.forward(params, bias_LE, *row, cfg)[0] for row in rows]
    return np.stack(found)[inputs().segment_ids != 0]


def assert_close(got, wanted):
    np.testing.assert_allclose(got, wanted, rtol=0, atol=CLOSE * np.abs(wanted).max())


@functools.lru_cache
def alive(cfg):
    rng = np.random.default_rng(1)
    bias_LE = 0.1 * rng.standard_normal((cfg.num_moe_layers, cfg.num_experts), np.float32)
    return jax.tree.map(np.asarray, numpy_model.weights(cfg, bias_LE))


@functools.lru_cache
def dead(cfg):
    """`alive` with parts that reach no logit, different ones in each layer."""
    made = jax.tree.map(np.array, alive(cfg))
    left, params = LEFT[cfg], made.params
    idle_D = np.arange(cfg.hidden_size) % 4 == 1  # 8 of 32
    params["embed"][:, idle_D] = 0.0
    for name in ("dense_layers", "moe_layers"):
        if name not in params:
            continue
        stack = params[name]
        mlp, attention = stack["mlp"], stack["attention"]
        num_layers = len(stack["mlp_norm"])
        for layer in range(num_layers):
            if cfg.num_kv_heads is None:
                attention["wo"][layer, (layer + 1) % cfg.num_heads] = 0.0
            else:
                size = cfg.num_heads // cfg.num_kv_heads
                attention["wo"][layer, layer % size :: size] = 0.0
            if name == "dense_layers":
                unused = np.roll(np.arange(cfg.intermediate_size), layer)[:10]
                mlp["w_gate_up"][layer, 0, unused] = 0.0
                continue
            made.buffers["router_bias"][layer, [layer, 4 + 2 * layer]] = -10.0
            for expert in range(cfg.num_experts):
                mlp["w_gate_up"][layer, expert, 1, expert : expert + 6] = 0.0
            mlp["shared"]["w_gate_up"][layer, 0, layer : 24 + layer] = 0.0
            mlp["shared"]["w_gate_up"][layer, 0, 30:36] = 0.0
        for low, leaf in (("kv_lora_rank", "wkv_a"), ("q_lora_rank", "wq_a")):
            if leaf in attention:
                w, rank = attention[leaf], left[low]
                size = getattr(cfg, low)
                rng = np.random.default_rng(3)
                basis = np.linalg.qr(rng.standard_normal((num_layers, size, size)))[0][..., :rank]
                w[..., :size] = w[..., :size] @ (basis @ basis.swapaxes(1, 2)).astype(w.dtype)
        for w in (attention["wo"], mlp["w_down"], mlp.get("shared", mlp)["w_down"]):
            w[..., idle_D] = 0.0
    first = params["dense_layers"]
    first["attention"]["wo"][1] = 0.0
    first["mlp"]["w_down"][1] = 0.0
    return made


@functools.lru_cache
def before(cfg):
    return logits(cfg, dead(cfg))


@functools.lru_cache
def seen(cfg):
    return surgery.observe(cfg, dead(cfg), [inputs()], presets.LAPTOP)


@pytest.mark.parametrize(("cfg", "field"), CASES, ids=IDS)
def test_a_cut_of_what_is_dead_keeps_the_logits(cfg, field):
    cut = surgery.CUTS[field](cfg, dead(cfg), seen(cfg), LEFT[cfg][field])
    assert getattr(cut.cfg, field) == LEFT[cfg][field]
    assert_shapes(cut.cfg, cut.weights)
    assert_close(logits(cut.cfg, cut.weights), before(cfg))
    assert cut.kept > 1 - 1e-6


@pytest.mark.parametrize(("cfg", "field"), CASES, ids=IDS)
def test_a_cut_that_takes_what_lives_says_so(cfg, field):
    groups = {"num_heads": cfg.num_kv_heads or 1, "num_experts": cfg.num_expert_groups}
    cut = surgery.CUTS[field](cfg, dead(cfg), seen(cfg), LEFT[cfg][field] - groups.get(field, 1))
    assert cut.kept < 1 - 1e-4
    assert not np.allclose(logits(cut.cfg, cut.weights), before(cfg), atol=1e-3)


def assert_shapes(cfg, made):
    assert resizing.shapes(cfg) == jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), made
    )


def _last_layer(cfg, made, row):
    """(block, what attention reads, each head's output, what the MLP reads, before, after)."""
    tokens, positions, segments = row
    params = jax.tree.map(lambda x: np.asarray(x, np.float64), made.params)
    x = params["embed"][tokens]
    for layer in range(cfg.num_layers):
        index = layer - cfg.num_dense_layers
        name, index = ("moe_layers", index) if index >= 0 else ("dense_layers", layer)
        block = numpy_model._layer(params[name], index)
        norm = functools.partial(numpy_model.rms_norm, eps=cfg.rms_norm_eps, cfg=cfg)
        normed, p = norm(x, block["attention_norm"]), block["attention"]
        one_head = np.eye(cfg.num_heads)[:, :, None, None] * p["wo"]
        heads = [
            numpy_model.attention(p | {"wo": wo}, normed, positions, segments, cfg)[0]
            for wo in one_head
        ]
        read = norm(x + sum(heads), block["mlp_norm"])
        if name == "moe_layers":
            bias_E = made.buffers["router_bias"][index]
            added = numpy_model.experts(block["mlp"], read, bias_E, cfg)[0]
        else:
            added = numpy_model.swiglu(block["mlp"], read, cfg)
        x, before = x + sum(heads) + added, x
    is_token = segments != 0
    return block, *(one[is_token] for one in (normed, np.stack(heads, 1), read, before, x))


def _activated(p, x):
    gate, up = (x @ w.T for w in p["w_gate_up"])
    return np.abs(numpy_model.silu(gate) * up)


def _unit(x):
    return x / np.sqrt((x**2).mean(axis=-1, keepdims=True))


def _expert_sums(cfg, mlp, read, bias_E, sums):
    for x in read:
        score = numpy_model.sigmoid(x @ mlp["router"])
        for e in numpy_model.choose(score, bias_E, cfg):
            one = {name: mlp[name][e] for name in ("w_gate_up", "w_down")}
            out = numpy_model.swiglu(one, x, cfg)
            sums["expert_tokens"][e] += 1
            sums["expert_added"][e] += (
                cfg.routed_scaling_factor * score[e] * np.sqrt((out**2).sum())
            )
            sums["experts"][e] += _activated(one, x)


@pytest.mark.parametrize("cfg", [LATENT, DENSE], ids=["latent", "grouped"])
def test_the_sums_are_those_that_a_slow_model_adds_up(cfg):
    made, wanted = dead(cfg), collections.defaultdict(float)
    wanted["expert_tokens"], wanted["expert_added"] = np.zeros((2, cfg.num_experts))
    wanted["experts"] = np.zeros((cfg.num_experts, cfg.moe_intermediate_size))
    rows = zip(inputs().tokens, inputs().positions, inputs().segment_ids, strict=True)
    for row in rows:
        block, normed, heads, read, before, after = _last_layer(cfg, made, row)
        sizes = {
            "heads": np.linalg.norm(heads, axis=-1),
            "attention_norm.size": np.abs(normed),
            "mlp_norm.size": np.abs(read),
        }
        cosine = (_unit(before) * _unit(after)).mean(axis=-1)
        wanted["turned"] += (1 - cosine).sum()
        wanted["attention_norm.energy"] += (_unit(before) ** 2).sum(axis=0)
        if cfg is LATENT:
            sizes["shared"] = _activated(block["mlp"]["shared"], read)
            _expert_sums(cfg, block["mlp"], read, made.buffers["router_bias"][-1], wanted)
            for name, leaf in (("kv_norm", "wkv_a"), ("q_norm", "wq_a")):
                rank = len(block["attention"][name])
                c = normed @ block["attention"][leaf][:, :rank]
                u = c / np.sqrt((c**2).mean(axis=-1, keepdims=True) + 1e-6)
                wanted[name] += u.T @ u
        else:
            sizes["mlp"] = _activated(block["mlp"], read)
        for name, one in sizes.items():
            wanted[name] += one.mean(axis=0) ** 2
    found = list(seen(cfg).stacks.values())[-1]
    for name, value in wanted.items():
        if cfg is DENSE and name.startswith("expert"):
            continue
        key, _, field = name.partition(".")
        got = getattr(found[key], field)[-1] if field else found[key][-1]
        np.testing.assert_allclose(got, value, rtol=1e-3, atol=1e-4, err_msg=name)


@pytest.mark.parametrize("field", ["kv_lora_rank", "q_lora_rank"])
def test_a_latent_of_full_rank_turns_and_logits_stay(field):
    cut = surgery.CUTS[field](LATENT, alive(LATENT), seen(LATENT), getattr(LATENT, field))
    assert cut.cfg == LATENT
    leaf = {"kv_lora_rank": "wkv_b", "q_lora_rank": "wq_b"}[field]
    turned, before = (
        x.params["moe_layers"]["attention"][leaf] for x in (cut.weights, alive(LATENT))
    )
    assert np.abs(turned - before).max() > 0.1
    assert_close(logits(LATENT, cut.weights), logits(LATENT, alive(LATENT)))


def test_experts_are_cut_by_the_score_that_is_asked_for():
    found = seen(LATENT)
    cuts = [
        surgery.cut_experts(LATENT, dead(LATENT), found, 4, score).weights
        for score in surgery.SCORES.values()
    ]
    routers = [one.params["moe_layers"]["mlp"]["router"] for one in cuts]
    tokens_LE = np.asarray(found.stacks["moe_layers"]["expert_tokens"])
    busiest = [np.sort(4 * g + np.argsort(-tokens_LE[0, 4 * g : 4 * g + 4])[:2]) for g in (0, 1)]
    router_LDE = dead(LATENT).params["moe_layers"]["mlp"]["router"]
    np.testing.assert_array_equal(routers[1][0], router_LDE[0][:, np.concatenate(busiest)])
    assert not np.array_equal(routers[0], routers[1])
    assert not np.array_equal(routers[1], routers[2])


def test_query_heads_go_evenly_from_the_groups_of_key_heads():
    cut = surgery.CUTS["num_heads"](DENSE, dead(DENSE), seen(DENSE), 2)
    assert (cut.cfg.num_heads, cut.cfg.num_kv_heads) == (2, 2)
    wq, old = (x.params["dense_layers"]["attention"]["wq"] for x in (cut.weights, dead(DENSE)))
    for group, head in enumerate(np.moveaxis(wq, 2, 0)):
        origins = [h for h in range(6) if np.array_equal(head[0], old[0, :, h])]
        assert [h // 3 for h in origins] == [group]
    few = dataclasses.replace(cut.cfg, num_heads=2)
    again = surgery.CUTS["num_heads"](few, cut.weights, _first_heads(seen(DENSE), 2), 1)
    assert (again.cfg.num_heads, again.cfg.num_kv_heads) == (1, 1)
    assert_shapes(again.cfg, again.weights)


def _first_heads(found, size):
    stacks = {k: x | {"heads": x["heads"][:, :size]} for k, x in found.stacks.items()}
    return found._replace(stacks=stacks)


@pytest.mark.long
def test_copies_that_add_nothing_leave_every_bit_of_the_logits():
    cfg, made = LATENT, jax.tree.map(jnp.asarray, alive(LATENT))
    new, grown = surgery.interpose(cfg, alive(LATENT), 2, is_zero=True)
    assert (new.num_layers, new.num_dense_layers) == (6, 2)
    assert_shapes(new, grown)
    found, wanted = (
        jit(functools.partial(model.apply, one, execution=presets.LAPTOP))(weights, inputs())[0]
        for one, weights in ((cfg, made), (new, jax.tree.map(jnp.asarray, grown)))
    )
    np.testing.assert_array_equal(found, wanted)
    _, copied = surgery.interpose(cfg, alive(LATENT), 2)
    assert not np.allclose(logits(new, copied), logits(cfg, alive(LATENT)), atol=1e-3)


def _numbers(cfg, made):
    """Numbers of the layers that a grown model is made of."""
    old = alive(LATENT if cfg.kv_lora_rank else DENSE).params
    found = []
    for name, first in (("dense_layers", 0), ("moe_layers", LATENT.num_dense_layers)):
        for one in made.params.get(name, {"mlp_norm": ()})["mlp_norm"]:
            same = [np.array_equal(one, other) for other in old[name]["mlp_norm"]]
            found.append(first + same.index(True))
    return found


def test_layers_are_stacked_and_interposed_by_number():
    _, stacked = surgery.stack(LATENT, alive(LATENT), 2)
    assert _numbers(LATENT, stacked) == [0, 1, 2, 3]
    new, stacked = surgery.stack(LATENT, alive(LATENT), 3)
    assert _numbers(new, stacked) == [0, 3]
    new, stacked = surgery.stack(DENSE, alive(DENSE), 1)
    assert _numbers(new, stacked) == [0, 1, 1, 2]
    assert new.num_dense_layers == new.num_layers == 4
    new, one = surgery.interpose(LATENT, alive(LATENT), 1)
    assert _numbers(new, one) == [0, 1, 2, 3, 3]
    np.testing.assert_array_equal(
        one.buffers["router_bias"], alive(LATENT).buffers["router_bias"][[0, 1, 1]]
    )
    assert _numbers(DENSE, surgery.interpose(DENSE, alive(DENSE), 3)[1]) == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize("norm_topk_prob", [True, False])
def test_experts_twice_for_twice_as_many_a_token_keep_the_logits(norm_topk_prob):
    cfg = dataclasses.replace(LATENT, norm_topk_prob=norm_topk_prob)
    new, grown = surgery.duplicate_experts(cfg, alive(LATENT), 2)
    assert (new.num_experts, new.num_experts_per_token, new.num_expert_groups) == (16, 4, 4)
    assert_shapes(new, grown)
    assert_close(logits(new, grown), logits(cfg, alive(LATENT)))


def test_noise_is_that_of_copies_alone():
    _, grown = surgery.duplicate_experts(LATENT, alive(LATENT), 2, noise=0.1, seed=4)
    for name, axis in (("router", 2), ("w_gate_up", 1), ("w_down", 1)):
        x, old = (one.params["moe_layers"]["mlp"][name] for one in (grown, alive(LATENT)))
        first, copies = np.split(x, 2, axis)
        np.testing.assert_array_equal(first, old)
        np.testing.assert_allclose((copies - old).std(), 0.1 * old.std(), rtol=0.1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda: _cut(LATENT, "num_experts", 5), r"\[1, 8\] and be a multiple of 2; got 5"),
        (lambda: _cut(LATENT, "hidden_size", 33), r"hidden_size = 32 .* \[1, 32\]; got 33"),
        (lambda: _cut(DENSE, "kv_lora_rank", 2), r"kv_lora_rank = 0 .*; got 2"),
        (lambda: _cut(DENSE, "num_experts", 2), "needs a model that has some of it"),
        (lambda: _cut(LATENT, "num_experts", 2), "num_experts_per_token must be at most 1"),
        (lambda: surgery.stack(LATENT, alive(LATENT), 1), "got 1"),
        (lambda: surgery.interpose(LATENT, alive(LATENT), 3), "between 1 and 2"),
        (lambda: surgery.duplicate_experts(DENSE, alive(DENSE), 2), "0 layers with experts"),
        (lambda: surgery.with_layers(LATENT, alive(LATENT), [2, 0]), r"first; got \[2, 0\]"),
    ],
)
def test_what_cannot_be_made_is_refused_with_numbers(change, message):
    with pytest.raises(ConfigError, match=message):
        change()


def _cut(cfg, field, size):
    return surgery.CUTS[field](cfg, dead(cfg), seen(cfg), size)
