"""Names and shapes of the tensors of released models, spelled out and not the package's."""


def shapes(fields: dict) -> dict[str, tuple[int, ...]]:
    """Every tensor of a released model, in the order of its layers."""
    hidden, vocab = fields["hidden_size"], fields["vocab_size"]
    found = {"model.embed_tokens.weight": (vocab, hidden)}
    for layer in range(fields["num_hidden_layers"]):
        inside = {
            "input_layernorm.weight": (hidden,),
            "post_attention_layernorm.weight": (hidden,),
            **{f"self_attn.{name}.weight": s for name, s in _attention(fields).items()},
            **_mlp(fields, is_moe=layer >= fields.get("first_k_dense_replace", layer + 1)),
        }
        found |= {f"model.layers.{layer}.{name}": shape for name, shape in inside.items()}
    found["model.norm.weight"] = (hidden,)
    if not fields["tie_word_embeddings"]:
        found["lm_head.weight"] = (vocab, hidden)
    return found


def _attention(fields: dict) -> dict[str, tuple[int, ...]]:
    return _latent(fields) if "kv_lora_rank" in fields else _grouped(fields)


def _grouped(fields: dict) -> dict[str, tuple[int, ...]]:
    hidden, heads = fields["hidden_size"], fields["num_attention_heads"]
    size, shared = fields.get("head_dim", hidden // heads), fields.get("num_key_value_heads", heads)
    found = {
        "q_proj": (heads * size, hidden),
        "k_proj": (shared * size, hidden),
        "v_proj": (shared * size, hidden),
        "o_proj": (hidden, heads * size),
    }
    if fields["model_type"] == "qwen3":
        found |= {"q_norm": (size,), "k_norm": (size,)}
    return found


def _latent(fields: dict) -> dict[str, tuple[int, ...]]:
    hidden, heads = fields["hidden_size"], fields["num_attention_heads"]
    nope, rotary = fields["qk_nope_head_dim"], fields["qk_rope_head_dim"]
    value, latent, rank = fields["v_head_dim"], fields["kv_lora_rank"], fields["q_lora_rank"]
    found = {
        "kv_a_proj_with_mqa": (latent + rotary, hidden),
        "kv_a_layernorm": (latent,),
        "kv_b_proj": (heads * (nope + value), latent),
        "o_proj": (hidden, heads * value),
    }
    if rank is None:
        return found | {"q_proj": (heads * (nope + rotary), hidden)}
    return found | {
        "q_a_proj": (rank, hidden),
        "q_a_layernorm": (rank,),
        "q_b_proj": (heads * (nope + rotary), rank),
    }


def _mlp(fields: dict, *, is_moe: bool) -> dict[str, tuple[int, ...]]:
    def swiglu(place: str, width: int) -> dict[str, tuple[int, ...]]:
        hidden = fields["hidden_size"]
        return {
            f"{place}.gate_proj.weight": (width, hidden),
            f"{place}.up_proj.weight": (width, hidden),
            f"{place}.down_proj.weight": (hidden, width),
        }

    if not is_moe:
        return swiglu("mlp", fields["intermediate_size"])
    experts, width = fields["n_routed_experts"], fields["moe_intermediate_size"]
    found = {
        "mlp.gate.weight": (experts, fields["hidden_size"]),
        "mlp.gate.e_score_correction_bias": (experts,),
        **swiglu("mlp.shared_experts", width * fields["n_shared_experts"]),
    }
    for expert in range(experts):
        found |= swiglu(f"mlp.experts.{expert}", width)
    return found
