"""Checkpoints in S3 and in Cloud Storage, through TensorStore's own drivers.

The server is tests/object_store.py; CHECKPOINT_URL=s3://bucket/prefix runs on that store what needs
no faults of the server.
"""

import inspect
import os
import threading
import time
import uuid

import object_store
import pytest
from test_checkpoints import Lab, assert_same, like, make_state

from kanana_jax import checkpoint, config
from kanana_jax.checkpoint import objects, owner, places

pytestmark = pytest.mark.slow

SHORT_LIMIT_S = 0.5
NUM_OBJECTS = 1 + 2 * 5  # a manifest, and of each array .zarray and a chunk


@pytest.fixture
def server():
    with object_store.served() as server:
        yield server


@pytest.fixture(params=["s3", "gs"])
def url(request, server, monkeypatch):
    """A prefix of a store that nothing is below."""
    if "CHECKPOINT_URL" in os.environ:
        needs_faults = "server" in inspect.signature(request.function).parameters
        if request.param == "gs" or needs_faults:
            pytest.skip("CHECKPOINT_URL names another server")
        yield f"{os.environ['CHECKPOINT_URL']}/{uuid.uuid4()}"
        return
    for name, value in server.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(
        objects, "_RETRIES", {"max_retries": 3, "initial_delay": "10ms", "max_delay": "50ms"}
    )
    yield f"{request.param}://{object_store.BUCKET}/runs/{uuid.uuid4()}"


class StoreLab(Lab):
    def __init__(self, url):
        super().__init__(url)
        self.root = objects.open_objects(url)

    def steps(self):
        return list(places.open_place(self.where).finished())

    def kinds(self):
        return [kind for kind, _ in self.events]

    def names(self, step):
        """The objects of a checkpoint."""
        return [name for name in self.root.names() if name.startswith(f"{step}-")]


@pytest.fixture
def lab(url):
    return StoreLab(url)


def test_what_was_saved_comes_back_and_only_the_newest_are_kept(lab):
    lab.save(1, 2, 3)
    found = lab.restore()
    assert (found.step, found.notes) == (3, {"step": 3})
    assert_same(found.state, make_state(3))
    assert lab.steps() == [2, 3]
    assert lab.names(1) == []
    assert len(lab.names(3)) == NUM_OBJECTS
    assert lab.events == []


def test_what_a_killed_process_left_is_no_checkpoint_and_goes(lab):
    """It was killed before the mark, which comes last."""
    lab.save(1, 2)
    for name in lab.root.names("marks/finished/2-"):
        lab.root.delete(f"marks/finished/2-{name}")
    assert len(lab.names(2)) == NUM_OBJECTS
    assert lab.restore().step == 1
    assert lab.names(2) == [] and lab.steps() == [1]
    assert lab.events == []


def flip(content):
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 8]) + content[middle + 1 :]


@pytest.mark.parametrize("hurt", [flip, lambda content: content[: len(content) // 2], None])
def test_damage_to_any_object_is_found_and_the_checkpoint_before_is_used(lab, hurt):
    lab.save(1, 2)
    sound = {name: lab.root.read(name) for name in lab.root.names()}
    for name in lab.names(2):
        for one, content in sound.items():
            lab.root.write(one, content)
        if hurt is None:
            lab.root.delete(name)
        else:
            lab.root.write(name, hurt(sound[name]))
        lab.events.clear()
        found = lab.restore()
        assert found.step == 1, name
        assert_same(found.state, make_state(1))
        assert lab.kinds() == ["checkpoint_unusable"] and "\n" not in lab.events[0][1]
        assert lab.steps() == [1]
        (aside,) = lab.root.names("marks/unusable/")
        assert f"it is now marks/unusable/{aside}" in lab.events[0][1]
        lab.root.delete(f"marks/unusable/{aside}")


def test_a_step_set_aside_is_saved_anew_beside_it(lab):
    lab.save(1, 2)
    damaged = next(name for name in lab.names(2) if name.endswith("params/w/0.0"))
    lab.root.write(damaged, flip(lab.root.read(damaged)))
    assert lab.restore().step == 1
    lab.save(2)
    assert_same(lab.restore().state, make_state(2))
    assert len(lab.names(2)) == 2 * NUM_OBJECTS, "kept for inspection"
    assert lab.steps() == [1, 2]


def test_when_none_is_left_it_says_so_also_the_next_time(lab):
    lab.save(1)
    name = lab.names(1)[0]
    lab.root.write(name, flip(lab.root.read(name)))
    for _ in range(2):
        with pytest.raises(checkpoint.NoUsableCheckpointError, match="train from the first step"):
            lab.restore()


@pytest.mark.parametrize("fault", [503, 403, "hang"])
def test_a_failing_store_is_reported_once_and_saving_goes_on(lab, server, fault, monkeypatch):
    monkeypatch.setattr(objects, "_LIMIT_S", SHORT_LIMIT_S)
    with lab.open() as saved:
        saved.save(1, make_state(1), {})
        saved.wait()
        # In the middle of a save: some of its objects are there.
        server.before = lambda method, key: _break_at(server, fault, key, "momentum/0.0")
        began = time.monotonic()
        for step in (2, 3):
            saved.save(step, make_state(step), {})
            saved.wait()
            assert saved.steps() == [1]
        assert time.monotonic() - began < 12 * SHORT_LIMIT_S
        server.before, server.fault = lambda method, key: None, None
        saved.save(4, make_state(4), {})
        saved.wait()
        assert saved.steps() == [1, 4]
        assert saved.restore_latest(like(make_state(0))).step == 4
    assert lab.kinds() == ["save_failed", "save_succeeded"]
    assert lab.restore().step == 4
    assert lab.names(2) == lab.names(3) == []


def _break_at(server, fault, key, end):
    if key.endswith(end):
        server.fault = fault


@pytest.mark.parametrize("fault", [503, 403])
def test_a_store_out_of_reach_sets_no_checkpoint_aside(lab, server, fault):
    lab.save(1)
    with lab.open() as saved:
        for broken in ("manifest.json", "params/w/0.0", "params/w/.zarray", ""):
            server.before = lambda method, key, end=broken: setattr(
                server, "fault", fault if key.endswith(end) else None
            )
            with pytest.raises(checkpoint.UnreachableError):
                saved.restore_latest(like(make_state(0)))
            server.before, server.fault = lambda method, key: None, None
        assert saved.restore_latest(like(make_state(0))).step == 1
    assert lab.events == []


def test_a_store_that_is_slow_for_a_moment_is_tried_again(lab, server):
    timer = threading.Timer(0.05, lambda: setattr(server, "fault", None))
    server.fault = 503
    timer.start()
    lab.save(1)
    assert lab.restore().step == 1
    assert lab.events == []


def test_two_working_directories_do_not_share(url, tmp_path):
    first, second = (tmp_path / name for name in ("first", "second"))
    for folder in (first, second):
        folder.mkdir()
    owner.check(url, first, probe=True)
    owner.claim(url, first)
    owner.check(url, first, probe=True)
    for refuse in (owner.check, owner.claim):
        with pytest.raises(config.ConfigError, match=f"the checkpoints of .*:{first}; choose ano"):
            refuse(url, second)
    moved = first.rename(tmp_path / "moved")
    owner.check(url, moved)
    owner.check(url, second, may_take_over=True)
    owner.claim(url, second, may_take_over=True)
    owner.check(url, second)
    with pytest.raises(config.ConfigError, match=f"the checkpoints of .*:{second}"):
        owner.check(url, moved)
    assert objects.open_objects(url).names() == ["owner.json"]


@pytest.mark.parametrize("fault", [503, 403])
def test_a_store_that_cannot_be_used_is_one_line(url, server, fault, tmp_path):
    server.fault = fault
    with pytest.raises(config.ConfigError, match=r"checkpoint_dir cannot be used: .*credentials"):
        owner.check(url, tmp_path)


def test_a_missing_bucket_is_one_line(url, server, tmp_path):
    missing = url.replace(object_store.BUCKET, "missing")
    with pytest.raises(config.ConfigError, match=r"checkpoint_dir cannot be used: .*404"):
        owner.check(missing, tmp_path, probe=True)


@pytest.mark.parametrize("what", ["http://bucket/a", "s3://", "gs:///a"])
def test_what_is_no_place_for_checkpoints_is_refused(what):
    with pytest.raises(config.ConfigError, match=r"must be a local path, gs://.*, got"):
        config.TrainConfig(checkpoint_dir=what)
