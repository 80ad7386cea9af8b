"""Settings that do nothing here, and the values with which they ask for nothing.

Clients send them by default or echo what they got. Null is neutral for every setting; any
other value must be refused by name. A type stands for all its values: notes about the caller.
"""

from collections.abc import Mapping
from typing import Any

from kanana_jax.config import ConfigError
from kanana_jax.generate.sampling import Sampling

Table = Mapping[str, tuple[Any, ...] | type]

# Generation settings, by their names in transformers, vLLM, sglang and llama.cpp.
GENERATION: Table = {
    "allowed_token_ids": ([],),
    "bad_words": ([],),
    "detokenize": (True,),
    "diversity_penalty": (0,),
    "dry_multiplier": (0,),
    "dynatemp_range": (0,),
    "early_stopping": (False,),
    "frequency_penalty": (0,),
    "ignore_eos": (False,),
    "include_stop_str_in_output": (False,),
    "length_penalty": (1,),
    "logits_processors": ([],),
    "min_new_tokens": (0,),
    "min_tokens": (0,),
    "mirostat": (0,),
    "no_repeat_ngram_size": (0,),
    "num_beam_groups": (1,),
    "num_beams": (1,),
    "num_return_sequences": (1,),
    "penalty_alpha": (0,),
    "presence_penalty": (0,),
    "repeat_penalty": (1,),
    "repetition_penalty": (1,),
    "skip_special_tokens": (True,),
    "spaces_between_special_tokens": bool,
    "stop_token_ids": ([],),
    "top_a": (0,),
    "typical_p": (1,),
    "use_beam_search": (False,),
    "use_cache": bool,
    "xtc_probability": (0,),
}
# The server does what these ask for.
_SERVED = {
    *("frequency_penalty", "ignore_eos", "min_tokens", "presence_penalty", "repetition_penalty"),
    *("skip_special_tokens", "stop_token_ids"),
}
# Fields of both OpenAI endpoints.
REQUEST: Table = {name: value for name, value in GENERATION.items() if name not in _SERVED} | {
    "cache_prompt": bool,
    "cache_salt": str,
    "metadata": dict,
    "priority": (0,),
    "prompt_cache_key": str,
    "prompt_cache_retention": str,
    "request_id": str,
    "return_token_ids": (False,),
    "return_tokens_as_token_ids": (False,),
    "safety_identifier": str,
    "service_tier": ("auto", "default"),
    "store": (False,),
    "user": str,
}
COMPLETION: Table = REQUEST | {"add_special_tokens": (True,), "suffix": ("",)}
CHAT: Table = REQUEST | {
    "add_generation_prompt": (True,),
    "add_special_tokens": (False,),
    "continue_final_message": (False,),
    "function_call": ("none", "auto"),
    "functions": ([],),
    "include_reasoning": (True,),
    "modalities": (["text"],),
    "reasoning_effort": ("none",),
    "separate_reasoning": (True,),
    "verbosity": ("medium",),
}
# Fields of a prompt that is only tokenized.
PROMPT: Table = {name: CHAT[name] for name in ("add_generation_prompt", "add_special_tokens")}
STREAM_OPTIONS: Table = {"continuous_usage_stats": (False,), "include_obfuscation": (False,)}
# Fields of a message, as answers have it, and of a part of its content.
MESSAGE: Table = {
    "annotations": ([],),
    "tool_calls": ([],),
    "type": ("text", "message"),
}
PART: Table = {"annotations": ([],), "cache_control": dict}
# Fields of /v1/audio/speech.
SPEECH: Table = {"instructions": ("",), "speed": (1,), "user": str}


def find_other(fields: Mapping[str, Any], table: Table) -> tuple[str, str | None] | None:
    """The first field, by name, that asks for something, and what was expected: None if unknown."""
    for name in sorted(name for name, value in fields.items() if value is not None):
        accepted = table.get(name)
        if accepted is None:
            return name, None
        if isinstance(accepted, type):
            if not isinstance(fields[name], accepted):
                return name, accepted.__name__
        elif not any(_is_same(fields[name], one) for one in accepted):
            return name, " or ".join(map(repr, accepted))
    return None


def _is_same(value: Any, other: Any) -> bool:
    # In Python true is 1 and false is 0.
    return isinstance(value, bool) == isinstance(other, bool) and value == other


def to_sampling(options: Mapping[str, Any], *, place: int) -> Sampling:
    """A `Sampling` from settings with transformers' names, for the prompt at `place` of several.

    Raises ConfigError for a setting that would do nothing here.
    """
    left = {name: value for name, value in options.items() if value is not None}
    is_sampled = left.pop("do_sample", True)
    found = {
        name: left.pop(name)
        for name in ("temperature", "top_k", "top_p", "min_p", "seed")
        if name in left
    }
    other = find_other(left, GENERATION)
    if other is not None:
        name, expected = other
        raise ConfigError(
            f"generation setting {name} = {left[name]!r} is not supported: expected "
            f"{expected or 'nothing'}; leave it out"
        )
    if not is_sampled:
        found["temperature"] = 0.0
    return Sampling(**found).at_place(place)
