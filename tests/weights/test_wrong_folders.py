"""Folders that are wrong at random: one line that says so, and nothing is written."""

import contextlib
import functools
import json
import tempfile
from pathlib import Path

import hf_folder
import hypothesis
import parity_cases
import pytest
from hypothesis import strategies as st

from kanana_jax.checkpoint import CheckpointError
from kanana_jax.weights import hf, native

FIELDS = parity_cases.CASES["like_deepseek"] | {
    "num_hidden_layers": 2,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_group": 2,
    "topk_group": 1,
    "quantization_config": None,
    "rope_parameters": None,
}
WEIGHTS = hf_folder.tensors(FIELDS)
SHARD = "model-00001-of-00003.safetensors"

# Each kind of value that JSON has, and numbers that no size can be.
scalars = (
    st.none()
    | st.booleans()
    | st.sampled_from([-1, 0, 3, 10**9, 10**30, -(10**30), 1e-300, 1e300])
    | st.sampled_from([float("nan"), float("inf"), "", "../x", "/etc/passwd", "a\nb\0", "\ud800"])
    | st.floats()
    | st.text(max_size=9)
)
garbage = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)


REMOVED = object()
few = hypothesis.settings(deadline=None, max_examples=50)


class _AcceptedError(Exception):
    pass


@contextlib.contextmanager
def _accept(target):
    raise _AcceptedError
    yield


@pytest.fixture(scope="module", autouse=True)
def _not_converted():
    """Other tests convert what is found right, which takes time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(native, "new_directory", _accept)
        yield


def _check(file: str, edit) -> None:
    """One line and nothing written, or accepted, after `edit` of the bytes of a file."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = hf_folder.write(folder / "hf", FIELDS, WEIGHTS)
        (source / file).write_bytes(edit((source / file).read_bytes()))
        try:
            hf.import_directory(source, folder / "to" / "native")
        except CheckpointError as error:
            assert len(str(error).splitlines()) == 1
        except _AcceptedError:
            pass
        assert [path.name for path in folder.iterdir()] == ["hf"]


def _edited(content: bytes, path, value) -> bytes:
    """JSON with another value at a path of keys, or without that key."""
    whole = json.loads(content)
    *groups, last = path
    inside = functools.reduce(lambda group, key: group[key], groups, whole)
    inside[last] = value
    if value is REMOVED:
        del inside[last]
    return json.dumps(whole).encode()


@hypothesis.given(
    st.sampled_from([(name,) for name in FIELDS])
    | st.sampled_from([("rope_scaling", name) for name in parity_cases.YARN]),
    garbage | st.just(REMOVED),
)
@few
def test_a_config_with_one_wrong_field(path, value):
    _check("config.json", lambda content: _edited(content, path, value))


@hypothesis.given(
    st.sampled_from([("weight_map", name) for name in WEIGHTS])
    | st.sampled_from([("weight_map",), ("metadata",), ("weight_map", "a\nb")]),
    garbage | st.sampled_from([SHARD, "../hf/" + SHARD]),
)
@few
def test_an_index_with_one_wrong_place(path, value):
    _check(hf.hf_files.INDEX_NAME, lambda content: _edited(content, path, value))


@hypothesis.given(
    st.sampled_from(list(WEIGHTS)[::3]),
    st.sampled_from([("dtype",), ("shape",), ("shape", 0), ("data_offsets",), ("data_offsets", 1)]),
    garbage | st.integers(-9, 9) | st.sampled_from(["F8_E4M3", "F16", "I32"]),
)
@few
def test_a_header_with_one_wrong_entry(name, path, value):
    def edit(content):
        end = 8 + int.from_bytes(content[:8], "little")
        header = _edited(content[8:end], (name, *path), value)
        return len(header).to_bytes(8, "little") + header + content[end:]

    _check(SHARD, edit)


@hypothesis.given(
    st.sampled_from(["config.json", hf.hf_files.INDEX_NAME, SHARD]),
    st.integers(0, 400),
    st.binary(max_size=3),
    st.booleans(),
)
@few
def test_bytes_replaced_or_cut_off(file, place, what, is_cut):
    end = slice(0, 0) if is_cut else slice(place + len(what), None)
    _check(file, lambda content: content[:place] + what + content[end])
