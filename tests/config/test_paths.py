"""One rule for all names of files and folders, in settings and flags."""

import dataclasses
import errno
import os
from pathlib import Path

import pytest

from kanana_jax import config, convert, generate
from kanana_jax.config import paths
from kanana_jax.evaluate import bits_per_byte
from kanana_jax.jobs import pipeline, pretrain
from kanana_jax.model import presets
from kanana_jax.workdir import storage

KOREAN = "\ud55c\uae00 \uc790\ub8cc"
SETTINGS = ("data.paths", "data.tokenizer", "data.cache_dir", "train.init_from")
SETTINGS += ("train.checkpoint_dir",)


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """The home folder, which is also the current one."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def read(setting: str, text: str) -> str:
    """What the field of a path makes of it, by the constructor of its dataclass."""
    group, _, name = setting.partition(".")
    owner = {"data": config.DataConfig, "train": config.TrainConfig}[group]
    value = getattr(owner(**{name: (text,) if name == "paths" else text}), name)
    return value[0] if name == "paths" else value


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("~/a b", "{home}/a b"),
        ("~", "{home}"),
        ("~root/x", os.path.expanduser("~root/x")),
        ("./~x", "./~x"),
        ("a,b{c,d}[e]", "a,b{c,d}[e]"),
        (KOREAN, KOREAN),
        ("file:///a/b.txt", "/a/b.txt"),
        ("file:/a/b.txt", "/a/b.txt"),
        ("FILE://localhost/a%20b.txt", "/a b.txt"),
        ("file:///100%.txt", "/100%.txt"),
        ("a:b", "a:b"),
        ("a/b://c", "a/b://c"),
        ("a" * 255, "a" * 255),
    ],
)
def test_a_local_name_is_read_by_one_rule(setting, text, wanted, home):
    assert read(setting, text) == wanted.replace("{home}", str(home))


def test_a_url_of_pathlib_names_the_same_file(home):
    path = home / f"{KOREAN} #1?.txt"
    assert read("data.paths", path.as_uri()) == str(path)


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize(
    ("text", "message"),
    [
        (" ", "is empty"),
        ("a\0b", "without control characters"),
        ("a\nb", "without control characters"),
        ("a\u2028b", "without control characters"),
        ("a\udcffb", "must be UTF-8"),
        ("file:///a%00b", "without control characters"),
        ("file:///a%FFb", "must be UTF-8"),
        ("a" * 256, "3000 bytes, 255 from / to /, got 256 and 256"),
        ("\ud55c" * 86, "got 258 and 258"),
        ("a/" * 1501, "got 3002 and 1"),
        ("~nobody-of-this-name/x", "a user who is not known"),
        ("file://host/a", "as a URL file:///folder/file"),
        ("file://a.txt", "as a URL file:///folder/file"),
    ],
)
def test_a_name_that_no_file_can_have_is_one_short_line(setting, text, message):
    with pytest.raises(config.ConfigError, match=f"{setting}.* {message}") as caught:
        read(setting, text)
    assert len(str(caught.value).splitlines()) == 1 and len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("url", "takers"),
    [
        ("gs://bucket/a", ("data.paths", "data.tokenizer", "train.checkpoint_dir")),
        ("s3://bucket", ("data.paths", "data.tokenizer", "train.checkpoint_dir")),
        ("hf://datasets/a", ("data.paths", "data.tokenizer")),
        ("zip://a.txt::b.zip", ("data.paths", "data.tokenizer")),
        ("simplecache::gs://bucket/a", ("data.paths", "data.tokenizer")),
        ("gs:/bucket/a", ("data.paths", "data.tokenizer")),  # what pathlib makes of the first
    ],
)
@pytest.mark.parametrize("setting", SETTINGS)
def test_a_url_is_kept_where_it_can_be_read_and_refused_elsewhere(setting, url, takers):
    if setting in takers:
        assert read(setting, url) == url
        return
    with pytest.raises(config.ConfigError, match=f"{setting} must be a local path.*, got '{url}'"):
        read(setting, url)


def test_an_empty_name_is_a_default_and_nothing_else():
    assert config.DataConfig().cache_dir == config.TrainConfig().init_from == ""
    for changes in ({"tokenizer": ""}, {"paths": ("",)}):
        with pytest.raises(config.ConfigError, match="is empty"):
            config.DataConfig(**changes)


@pytest.mark.parametrize("where", [Path("~/a"), "~/a", "file:~/a"])
def test_a_working_directory_may_lie_in_the_home_folder(where, home):
    if str(where).startswith("file:"):
        where = (home / "a").as_uri()
    assert paths.workdir(where) == home / "a"
    assert list(home.iterdir()) == []


@pytest.mark.parametrize("where", ["gs://bucket/a", Path("gs://bucket/a"), "s3://b", "hdfs://a/b"])
def test_a_working_directory_elsewhere_is_refused_with_what_can_lie_there(where, home):
    with pytest.raises(config.ConfigError, match=r"--workdir must be .*train\.checkpoint_dir"):
        paths.workdir(where)
    assert list(home.iterdir()) == []


@pytest.mark.parametrize("name", ["file", "file/inside", "file/far/inside", "broken", "/proc/x"])
def test_a_folder_that_cannot_be_made_is_one_line(name, home):
    (home / "file").write_text("")
    (home / "broken").symlink_to("nowhere")
    with pytest.raises(config.ConfigError, match="--workdir must be a folder") as caught:
        paths.expect_folder(Path(name), "--workdir")
    assert "\n" not in str(caught.value)
    assert sorted(one.name for one in home.iterdir()) == ["broken", "file"]


def test_a_folder_that_can_be_made_is_left_alone(home):
    (home / "a").mkdir()
    for name in ("a", "a/b/c", ".", ".."):
        paths.expect_folder(Path(name), "--workdir")
    assert list(home.iterdir()) == [home / "a"] and list((home / "a").iterdir()) == []


def test_a_full_disk_is_not_the_names_fault(home, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device", "a probe")

    monkeypatch.setattr(paths.tempfile, "TemporaryDirectory", full)
    with pytest.raises(storage.StorageError, match=r"^work cannot be written .No space"):
        storage.expect_workdir(Path("work"))


@pytest.mark.parametrize("setting", ["data.cache_dir", "train.checkpoint_dir"])
def test_a_run_names_the_setting_whose_folder_cannot_be_made(setting, home):
    (home / "file").write_text("")
    cfg = pretrain.Config(name="a", question="", model=presets.tiny())
    with pytest.raises(config.ConfigError, match=f"{setting} must be a folder"):
        pretrain.run(cfg.edited([f"{setting}=~/file"]), home / "work")
    assert list(home.iterdir()) == [home / "file"]
    storage.expect_folders([(setting, "folder/inside"), (setting, "gs://bucket/a"), (setting, "")])
    assert list(home.iterdir()) == [home / "file"]


@pytest.mark.parametrize(
    ("command", "arguments", "message"),
    [
        (convert, ["--from-hf=", "--to=b"], "--from-hf is empty"),
        (convert, ["--from-hf=a", "--to="], "--to is empty"),
        (convert, ["--from-hf=gs://b/a", "--to=b"], "--from-hf must be a local path"),
        (convert, ["--from=a", "--to-hf=s3://b/a"], "--to-hf must be a local path"),
        (convert, ["--from=~nobody-of-this-name", "--to-hf=b"], "--from begins with"),
        (convert, ["--from-run=hf://a", "--to=b"], "--from-run must be a local path"),
        (convert, ["--from-hf=a", "--to=file"], "--to must be a folder"),
        (convert, ["--from-hf=a", "--to=file/b"], "--to must be a folder"),
        (convert, ["--from-hf=~/file", "--to=b"], "{home}/file/config.json"),
        (bits_per_byte, ["--checkpoint=a", "--path="], "data.paths[0] is empty"),
        (bits_per_byte, ["--checkpoint=a", "--path=~/none"], "{home}/none"),
    ],
)
def test_flags_follow_the_rule(command, arguments, message, home, capsys):
    (home / "file").write_text("")
    with pytest.raises(SystemExit) as stopped:
        command.main(arguments)
    shown = capsys.readouterr().err
    assert stopped.value.code == 2
    assert message.format(home=home) in shown
    assert shown.startswith(f"{command.__name__}: ") and shown.count("\n") == 1
    assert list(home.iterdir()) == [home / "file"]


@pytest.mark.parametrize(
    ("checkpoint", "message"),
    [("", "--checkpoint is empty"), ("gs://b/a", "--checkpoint must be"), ("~/a", "{home}/a/")],
)
def test_a_model_is_loaded_by_the_rule(checkpoint, message, home):
    with pytest.raises(ValueError, match=message.format(home=home)):
        generate.load(checkpoint)


@pytest.mark.parametrize(
    "name", ["", " ", ".", "..", "../x", "a/b", "/a", "a\\b", "a\nb", "a" * 201]
)
def test_an_experiment_is_named_like_one_folder(name):
    cfg = pretrain.Config(name="a", question="", model=presets.tiny())
    with pytest.raises(config.ConfigError, match="name must be the name of a folder"):
        pretrain.Config(name=name, question="", model=presets.tiny())
    with pytest.raises(config.ConfigError, match=r"stages\.name must be the name of a folder"):
        pipeline.Stage(name, cfg)


@pytest.mark.parametrize("name", [KOREAN, "v1.2", "a b", "~a", "-"])
def test_most_names_are_those_of_folders(name):
    cfg = pretrain.Config(name=name, question="", model=presets.tiny())
    assert dataclasses.replace(cfg).name == pipeline.Stage(name, cfg).name == name
