"""Checkpoints: sound or set aside, and saving goes on when the disk does not."""

import json
import os
import shutil
import subprocess
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kanana_jax import checkpoint
from kanana_jax.checkpoint import manager, shards


class State(NamedTuple):
    step: Any
    params: Any
    opt_state: Any


def make_state(step, size=64):
    key = jax.random.key(step)
    weights = jax.random.normal(key, (size, 8))
    return State(
        step=jnp.int32(step),
        params={"w": weights, "half": weights[0].astype(jnp.bfloat16), "empty": jnp.zeros((0, 3))},
        opt_state=(jnp.zeros(()), {"momentum": -weights}),
    )


def like(state):
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here), state)


def assert_same(found, wanted):
    assert jax.tree.structure(found) == jax.tree.structure(wanted)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)


class Lab:
    """Checkpoints in a folder or below a URL, and the events that were reported of them."""

    def __init__(self, where):
        self.where, self.events = where, []

    def open(self, keep=2):
        report = lambda kind, message: self.events.append((kind, message))  # noqa: E731
        return checkpoint.Checkpoints(self.where, keep=keep, report=report)

    def save(self, *steps):
        with self.open() as saved:
            for step in steps:
                saved.save(step, make_state(step), {"step": step})

    def restore(self):
        with self.open() as saved:
            return saved.restore_latest(like(make_state(0)))

    def files(self, step):
        return sorted(path for path in (self.where / str(step)).rglob("*") if path.is_file())


@pytest.fixture
def lab(tmp_path):
    return Lab(tmp_path / "checkpoints")


def test_what_was_saved_comes_back_and_only_the_newest_are_kept(lab):
    lab.save(1, 2, 3)
    found = lab.restore()
    assert (found.step, found.notes) == (3, {"step": 3})
    assert_same(found.state, make_state(3))
    assert sorted(path.name for path in lab.where.iterdir()) == ["2", "3"]


def test_the_state_may_be_donated_right_after_a_save_was_begun(lab):
    state, wanted = make_state(5, size=1 << 14), make_state(5, size=1 << 14)
    change = jax.jit(lambda tree: jax.tree.map(lambda x: x + 1, tree), donate_argnums=0)
    with lab.open() as saved:
        saved.save(5, state, {})
        change(state)
        assert_same(saved.restore_latest(like(wanted)).state, wanted)


def flip(path):
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1 << 3
    path.write_bytes(raw)


def truncate(path):
    os.truncate(path, path.stat().st_size // 2)


@pytest.mark.parametrize("hurt", [flip, truncate, os.remove])
def test_damage_to_any_file_is_found_and_the_checkpoint_before_is_used(lab, hurt):
    lab.save(1, 2)
    sound = lab.where.with_name("sound")
    shutil.copytree(lab.where, sound)
    names = [path.relative_to(lab.where) for path in lab.files(2)]
    assert len(names) >= 6
    for name in names:
        shutil.rmtree(lab.where)
        shutil.copytree(sound, lab.where)
        hurt(lab.where / name)
        lab.events.clear()
        found = lab.restore()
        assert found.step == 1, name
        assert_same(found.state, make_state(1))
        assert [kind for kind, _ in lab.events] == ["checkpoint_unusable"]
        assert "\n" not in lab.events[0][1]
        assert (lab.where / "2.unusable").is_dir() and not (lab.where / "2").exists()


@pytest.mark.slow
def test_each_of_a_hundred_flipped_bits_is_found(lab):
    """Over all files of a checkpoint and all places in them."""
    lab.save(1, 2)
    rng = np.random.default_rng(0)
    sizes = {path: path.stat().st_size for path in lab.files(2)}
    for index in range(100):
        path = list(sizes)[index % len(sizes)]
        place, bit = rng.integers(sizes[path]), rng.integers(8)
        raw = bytearray(path.read_bytes())
        raw[place] ^= 1 << bit
        path.write_bytes(raw)
        assert lab.restore().step == 1, (path, place, bit)
        raw[place] ^= 1 << bit
        (lab.where / "2.unusable").rename(lab.where / "2")
        path.write_bytes(raw)
    assert lab.restore().step == 2


def test_arrays_that_differ_from_those_saved_are_found_behind_sound_files(lab, monkeypatch):
    """What a fault between the training thread's memory and the file would look like."""
    open_array = shards._open

    class Changing:
        def __init__(self, array):
            self.array = array

        def __getitem__(self, index):
            return Changing(self.array[index])

        def write(self, chunk):
            return self.array.write(chunk + 1)

    def open_changing(folder, path, entry, *, create):
        array = open_array(folder, path, entry, create=create)
        return Changing(array) if create and path == "step" else array

    lab.save(1)
    with monkeypatch.context() as patch:
        patch.setattr(shards, "_open", open_changing)
        lab.save(2)
    assert lab.restore().step == 1
    assert "step is not what was saved" in lab.events[0][1]


def test_when_none_is_left_it_says_so_also_the_next_time(lab):
    lab.save(1, 2)
    for step in (1, 2):
        flip(lab.files(step)[0])
    for _ in range(2):
        with pytest.raises(checkpoint.NoUsableCheckpointError, match="train from the first step"):
            lab.restore()


def test_nothing_saved_is_a_start_and_no_error(lab):
    (lab.where / "7.tmp").mkdir(parents=True)
    assert lab.restore() is None
    assert not (lab.where / "7.tmp").exists(), "a killed process's"


def test_another_models_checkpoint_is_refused_and_stays(lab):
    lab.save(1)
    other = make_state(0)._replace(opt_state=())
    with lab.open() as saved, pytest.raises(checkpoint.MismatchError, match=r"2 arrays: .*opt_st"):
        saved.restore_latest(like(other))
    assert (lab.where / "1").is_dir()


def test_a_failing_save_is_reported_once_and_saving_goes_on(lab, monkeypatch):
    with lab.open() as saved:
        saved.save(1, make_state(1), {})
        saved.wait()
        with monkeypatch.context() as patch:
            patch.setattr(manager.manifest, "write", _raise_full)
            for step in (2, 3):
                saved.save(step, make_state(step), {})
                saved.wait()
                assert saved.steps() == [1]
                assert [path.name for path in lab.where.iterdir()] == ["1"]
        saved.save(4, make_state(4), {})
        assert saved.restore_latest(like(make_state(0))).step == 4
    assert [kind for kind, _ in lab.events] == ["save_failed", "save_succeeded"]


def _raise_full(*_):
    raise OSError(28, "No space left on device")


def test_a_full_disk_costs_no_checkpoint(tmp_path):
    """A tmpfs of 4 MB; the state takes 1 MB and does not compress."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)]
    if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("needs the right to mount a tmpfs")
    lab = Lab(disk / "checkpoints")
    try:
        with lab.open(keep=1) as saved:
            saved.save(1, make_state(1, size=1 << 14), {})
            saved.wait()
            filler = disk / "filler"
            filler.write_bytes(bytes(os.statvfs(disk).f_bavail * os.statvfs(disk).f_bsize // 2))
            with filler.open("ab", buffering=0) as file:
                while file.write(bytes(4096)) == 4096:
                    if not os.statvfs(disk).f_bavail:
                        break
            saved.save(2, make_state(2, size=1 << 14), {})
            saved.wait()
            assert [path.name for path in lab.where.iterdir()] == ["1"]
            filler.unlink()
            saved.save(3, make_state(3, size=1 << 14), {})
            wanted = make_state(3, size=1 << 14)
            assert_same(saved.restore_latest(like(wanted)).state, wanted)
        assert [kind for kind, _ in lab.events] == ["save_failed", "save_succeeded"]
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_manifest_of_another_step_is_not_believed(lab):
    lab.save(1, 2)
    shutil.copy(lab.where / "1" / "manifest.json", lab.where / "2" / "manifest.json")
    assert lab.restore().step == 1


def test_eight_devices_read_what_one_wrote_and_back(lab):
    lab.save(1)
    mesh = jax.make_mesh((8,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    spread = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("x"))
    whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    wanted = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(
            x.shape, x.dtype, sharding=spread if x.shape == (64, 8) else whole
        ),
        make_state(1),
    )
    with lab.open() as saved:
        found = saved.restore_latest(wanted).state
        assert found.params["w"].sharding == spread
        assert_same(found, make_state(1))
        saved.save(2, found, {})
    assert_same(lab.restore().state, make_state(1))
    content = json.loads((lab.where / "2" / "manifest.json").read_text())
    entry = content["leaves"]["params/w"]
    assert (entry["shape"], entry["chunk_shape"], len(entry["chunks"])) == ([64, 8], [8, 8], 8)
