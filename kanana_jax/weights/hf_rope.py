"""Rotary positions in a config.json: the base of the angles, and how the context is extended.

Transformers 5 writes them as one field, rope_parameters, and 4 as two, rope_theta and rope_scaling.
"""

from typing import Any, NamedTuple

from kanana_jax import config
from kanana_jax.checkpoint.errors import CheckpointError, shown
from kanana_jax.weights import hf_fields

# The values at which a further field changes nothing.
FIXED = {"partial_rotary_factor": 1.0}
_NOTES = {"type", "rope_type", "rope_theta", "finetuned"}
_KINDS = {"default": "default", "yarn": "yarn", "deepseek_yarn": "yarn", "llama3": "llama3"}


class _Extension(NamedTuple):
    """A kind of scaling; it fills `setting` of ModelConfig with a `make`."""

    setting: str
    make: type
    names: dict[str, str]  # ours to theirs
    needed: tuple[str, ...]  # theirs
    fixed: dict[str, Any]
    defaults: dict[str, Any]  # ours, of fields that may be absent
    written: dict[str, str]  # how a file names this kind


_YARN = _Extension(
    setting="yarn",
    make=config.YarnConfig,
    names={
        "factor": "factor",
        "original_max_positions": "original_max_position_embeddings",
        "beta_fast": "beta_fast",
        "beta_slow": "beta_slow",
        "mscale": "mscale",
        "mscale_all_dim": "mscale_all_dim",
    },
    needed=("factor", "original_max_position_embeddings"),
    fixed={
        "attention_factor": None,
        "attn_factor": 1.0,
        "extrapolation_factor": 1.0,
        "truncate": True,
    },
    # What the published code reads.
    defaults={"mscale": 0.0, "mscale_all_dim": 0.0},
    written={"type": "yarn"},
)
_LLAMA3_NAMES = {
    "factor": "factor",
    "original_max_positions": "original_max_position_embeddings",
    "low_freq_factor": "low_freq_factor",
    "high_freq_factor": "high_freq_factor",
}
_LLAMA3 = _Extension(
    setting="llama3_rope",
    make=config.Llama3RopeConfig,
    names=_LLAMA3_NAMES,
    needed=tuple(_LLAMA3_NAMES.values()),
    fixed={},
    defaults={},
    written={"rope_type": "llama3"},
)
_EXTENSIONS = {"yarn": _YARN, "llama3": _LLAMA3}


def read(fields: dict[str, Any], kinds: tuple[str, ...]) -> tuple[Any, dict[str, Any]]:
    """(theta, settings of ModelConfig that extend the context); theta is None where there is none.

    Where a file gives one of them twice, the two must agree. `kinds` are those that the
    architecture has.
    """
    places = []
    for name in ("rope_parameters", "rope_scaling"):
        if not isinstance(fields.get(name, {}), dict | None):
            raise CheckpointError(
                f"config.json: {name} must be an object or null, got {shown(fields[name])}"
            )
        if fields.get(name):
            places.append({key: x for key, x in fields[name].items() if x is not None})
    thetas = [place.get("rope_theta") for place in [*places, fields]]
    thetas = [theta for theta in thetas if theta is not None]
    extensions = [_extension(place, kinds) for place in places if place.keys() - {"rope_theta"}]
    for said in (thetas, extensions):
        if any(one != said[0] for one in said):
            raise CheckpointError(
                f"config.json: rope_parameters, rope_scaling and rope_theta differ, got {said[0]} "
                f"and {said[-1]}; leave the right one"
            )
    settings = {
        known.setting: one
        for one in extensions
        for known in _EXTENSIONS.values()
        if isinstance(one, known.make)
    }
    return thetas[0] if thetas else None, settings


def _extension(scaling: dict[str, Any], kinds: tuple[str, ...]) -> Any:
    """A dataclass of one of these kinds; None where nothing is extended."""
    said = [scaling[name] for name in ("rope_type", "type") if name in scaling]
    named = {_KINDS.get(one) if isinstance(one, str) else None for one in said}
    if named not in [{kind} for kind in ("default", *kinds)]:
        raise CheckpointError(
            f"config.json: expected rope scaling {' or '.join(map(repr, kinds))} or none, got "
            f"{' and '.join(map(shown, said)) or 'no rope_type'}"
        )
    (kind,) = named
    if kind == "default":
        hf_fields.check_fixed("rope scaling: ", scaling, FIXED)
        return None
    known = _EXTENSIONS[str(kind)]
    fixed = FIXED | known.fixed
    hf_fields.check_fixed("rope scaling: ", scaling, fixed)
    unknown = sorted(scaling.keys() - {*known.names.values(), *fixed, *_NOTES})
    if unknown:
        raise CheckpointError(f"config.json: rope scaling has unknown fields {', '.join(unknown)}")
    missing = [name for name in known.needed if name not in scaling]
    if missing:
        raise CheckpointError(f"config.json: rope scaling lacks {', '.join(missing)}")
    found = {ours: scaling[theirs] for ours, theirs in known.names.items() if theirs in scaling}
    return hf_fields.make(known.make, known.defaults | found, known.names)


def write(cfg: config.ModelConfig) -> dict[str, Any]:
    return {"rope_theta": cfg.rope_theta, "rope_scaling": _scaling(cfg)}


def _scaling(cfg: config.ModelConfig) -> dict[str, Any] | None:
    for known in _EXTENSIONS.values():
        extension = getattr(cfg, known.setting)
        if extension is not None:
            values = {ours: getattr(extension, ours) for ours in known.names}
            absent = {ours for ours, value in known.defaults.items() if values[ours] == value}
            return known.written | {known.names[x]: values[x] for x in values if x not in absent}
    return None
