"""Everything that is refused is refused before the first byte is written."""

import dataclasses
import json

import pytest

from kanana_jax import checkpoint, config, data, train
from kanana_jax.data import tokenizer
from kanana_jax.train import compare
from kanana_jax.weights import native, run_folder
from kanana_jax.workdir import lock


def _tree(folder):
    """Every path below a folder, with its time and content."""
    return {
        str(path.relative_to(folder)): (
            path.lstat().st_mtime_ns,
            path.read_bytes() if path.is_file() else None,
        )
        for path in sorted(folder.rglob("*"))
    }


@pytest.fixture
def place(exp, tmp_path, monkeypatch):
    """A folder with text, tokenizers, a model to start from and a file; runs do not train."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(compare, "_train", lambda *args: None)
    monkeypatch.setattr(compare, "write_report", lambda *args: "")
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "short.txt").write_text("a few words")
    (tmp_path / "utf16.txt").write_bytes(b"\xff\xfe\x00bad")
    bpe = tokenizer.train_bpe([b"muon clip polar"] * 9, 270)
    (tmp_path / "tokenizer.json").write_text(bpe.json)
    cfg = dataclasses.replace(exp.model, vocab_size=bpe.vocab_size)
    model = tmp_path / "model"
    model.mkdir()
    (model / native.CONFIG_NAME).write_text(
        json.dumps({"model": dataclasses.asdict(cfg), "hugging_face": {}})
    )
    (model / "tokenizer.json").write_text(bpe.json)
    return tmp_path


def _arms(*edits_of_arms):
    return tuple(
        config.Arm(name=f"arm {number}", edits=edits) for number, edits in enumerate(edits_of_arms)
    )


# What `exp` is made of, and what is said of it. Eight devices are here.
ON_EIGHT = ("mesh.data=8",)
REFUSED = {
    "mesh too small": (("mesh.data=4",), "do not multiply to the 8 devices"),
    "mesh axis zero": (("mesh.data=0",), "mesh.data must lie in"),
    "two open axes": (("mesh.data=-1", "mesh.fsdp=-1"), "at most one mesh axis"),
    "slices": (("mesh.data=8", "mesh.num_slices=3"), "does not divide over mesh.num_slices"),
    "batch": ((*ON_EIGHT, "data.batch_size=9"), "data.batch_size = 9 does not divide"),
    "micro-batches": (
        (*ON_EIGHT, "train.accumulation_steps=3"),
        "must divide data.batch_size = 8, got 3",
    ),
    "sequence": (("mesh.data=1", "mesh.context=8", "data.seq_len=33"), "data.seq_len = 33"),
    "heads": (("mesh.data=1", "mesh.tensor=8"), "model.num_heads = 4 does not divide"),
    "experts": (("mesh.data=1", "mesh.expert=8"), "model.num_experts = 4 does not divide"),
    "hidden": (("mesh.data=1", "mesh.fsdp=8", "model.hidden_size=36"), "model.hidden_size = 36"),
    "vocabulary": ((*ON_EIGHT, "model.vocab_size=100"), "smaller than the tokenizer's 258"),
    "kernel": ((*ON_EIGHT, "model.attention_implementation=mosaic_gpu"), "cannot be trained here"),
    "product": ((*ON_EIGHT, "model.grouped_matmul_implementation=mosaic_gpu"), "cannot be trained"),
    "no such text": ((*ON_EIGHT, "data.paths=none.txt"), "does not exist"),
    "empty text": ((*ON_EIGHT, "data.paths=empty.txt"), "the source is empty"),
    "short text": ((*ON_EIGHT, "data.paths=short.txt"), "distinct text for a training"),
    "no text": ((*ON_EIGHT, "data.paths=utf16.txt"), "utf16.txt"),
    "no tokenizer": ((*ON_EIGHT, "data.tokenizer=none.json"), "cannot be read"),
    "bad tokenizer": ((*ON_EIGHT, "data.tokenizer=short.txt"), "is no tokenizer.json"),
    "no model": ((*ON_EIGHT, "train.init_from=none"), "does not exist"),
    "other tokenizer": ((*ON_EIGHT, "train.init_from=model"), r"set data\.tokenizer="),
    "checkpoints in a file": ((*ON_EIGHT, "train.checkpoint_dir=short.txt"), "Not a directory"),
    "checkpoints below one": ((*ON_EIGHT, "train.checkpoint_dir=short.txt/a"), "Not a directory"),
    "resume.allow": ((*ON_EIGHT, "resume.allow=train.num_step"), "resume.allow names no setting"),
    "rates": ((*ON_EIGHT, "lrs=0.1,0.1"), "must differ from each other"),
}
REFUSED_ARMS = {
    "shape": (_arms((), ("mesh.fsdp=3",)), "do not multiply to the 8 devices"),
    "batch": (_arms((), ("data.batch_size=9",)), "data.batch_size = 9"),
    "vocabulary": (_arms((), ("model.vocab_size=9",)), "smaller than the tokenizer's"),
    "text": (_arms((), ("data.paths=short.txt",)), "distinct text for a training"),
    "kernel": (_arms(("model.attention_implementation=mosaic_gpu",), ()), "arm 0 cannot be"),
    "shared": (_arms((), ("question=why",)), "which all arms share"),
    "checkpoints": (_arms((), ("train.checkpoint_dir=short.txt",)), "Not a directory"),
    "overridden": (
        _arms(
            (),
            (
                "train.init_from=model",
                "data.tokenizer=model/tokenizer.json",
                "model.hidden_size=64",
            ),
        ),
        "but the model of train.init_from has 32",
    ),
}
ERRORS = (config.ConfigError, train.CheckpointError, train.DataError)


def _assert_refused(exp, edits, place, message, errors=ERRORS):
    before = _tree(place)
    with pytest.raises(errors, match=message) as caught:
        train.run(config.edit(exp, edits), place / "work")
    assert "\n" not in str(caught.value)
    assert _tree(place) == before


@pytest.mark.parametrize("name", REFUSED)
def test_a_refusal_comes_before_the_first_byte(exp, place, name):
    edits, message = REFUSED[name]
    _assert_refused(exp, edits, place, message)


@pytest.mark.parametrize("name", REFUSED_ARMS)
def test_an_arm_that_cannot_run_is_refused_before_the_first_byte(exp, place, name):
    arms, message = REFUSED_ARMS[name]
    compared = dataclasses.replace(config.edit(exp, ON_EIGHT), arms=arms)
    _assert_refused(compared, (), place, message)


@pytest.fixture
def begun(exp, place, text_file, monkeypatch):
    """A working directory in which twelve steps of a run were done, or so it says."""
    copy = place / "words.txt"
    copy.write_text(text_file.read_text())
    begun = config.edit(exp, [*ON_EIGHT, f"data.paths={copy}", f"train.checkpoint_dir={place}/c"])
    with monkeypatch.context() as patch:
        patch.setattr(compare, "_expect_able", lambda one: None)  # takes seconds
        train.run(begun, place / "work")
    (place / "c" / "test" / "run" / "12").mkdir(parents=True)
    (place / "work" / "run" / "saved.json").write_text('{"step": 12}')
    return begun


def _changed_text(begun, place):
    (place / "words.txt").write_text((place / "words.txt").read_text().replace("muon", "mu0n", 1))


def _lost(begun, place):
    (place / "c" / "test" / "run" / "12").rename(place / "12")


def _of_another_arm(begun, place):
    path = place / "work" / "run" / "run.json"
    path.write_text(path.read_text().replace('"seed": 0', '"seed": 7'))


def _of_another_folder(begun, place):
    (place / "work" / "checkpoints.json").write_text('{"id": "other"}')


BEGUN = {
    "settings": (None, ("optimizer.tau=7",), config.ConfigError, r"optimizer\.tau: 0.5 -> 7.0"),
    "text": (_changed_text, (), config.ConfigError, "the tokenizer has changed"),
    "fewer steps": (
        None,
        ("train.num_steps=4", "resume.allow=train.num_steps"),
        config.ConfigError,
        "less than the 12 steps",
    ),
    "lost checkpoints": (_lost, (), checkpoint.NoUsableCheckpointError, "was saved at step 12"),
    "moved checkpoints": (
        None,
        ("train.checkpoint_dir=other", "resume.allow=train.checkpoint_dir"),
        checkpoint.NoUsableCheckpointError,
        "was saved at step 12",
    ),
    "another run's folder": (_of_another_arm, (), config.ConfigError, "holds the run of"),
    "another's checkpoints": (_of_another_folder, (), config.ConfigError, "holds the checkpoints"),
    "kernel": (
        None,
        ("model.attention_implementation=mosaic_gpu", "resume.allow=model"),
        config.ConfigError,
        "cannot be trained here",
    ),
}


@pytest.mark.parametrize("name", BEGUN)
def test_a_run_that_was_begun_stays_as_it_is(begun, place, name):
    change, edits, error, message = BEGUN[name]
    if change is not None:
        change(begun, place)
    _assert_refused(begun, edits, place, message, error)


def test_a_directory_in_use_is_refused_before_the_text_is_kept(begun, place):
    edits = ["data.cache_dir=elsewhere", "resume.allow=data.cache_dir"]
    with lock.held(place / "work"):
        _assert_refused(begun, edits, place, "is in use by process")


def test_arms_read_the_text_and_tokenizer_that_they_name(exp, place, monkeypatch):
    """And runs that differ only in the order of their data share one corpus."""
    opened = []
    monkeypatch.setattr(compare, "_expect_able", lambda one: None)
    monkeypatch.setattr(
        compare, "_train", lambda waiting, corpora, stop: opened.append((waiting, corpora))
    )
    arms = _arms((), ("data.tokenizer=tokenizer.json",), ("data.seed=3",), ("mesh.fsdp=2",))
    edits = ["mesh.data=-1", "data.batch_size=8"]
    train.run(dataclasses.replace(config.edit(exp, edits), arms=arms), place / "work")
    ((waiting, corpora),) = opened
    read = [corpora[compare._of_text(one)] for one in waiting]
    assert [one.exp.model.vocab_size for one in waiting] == [258, 270, 258, 258]
    assert read[0] is read[2] is read[3] and len(corpora) == 2
    assert [one.exp.mesh.fsdp for one in waiting] == [1, 1, 1, 2]
    kept = json.loads((waiting[1].directory / "run.json").read_text())["tokenizer"]
    assert (place / "work" / kept).read_text() == (place / "tokenizer.json").read_text()
    fingerprint = json.loads((place / "work" / "data.json").read_text())["fingerprint"]
    assert fingerprint == ",".join(dict.fromkeys(one.fingerprint for one in read))


def test_no_device_of_the_platform_is_one_line(exp, tmp_path, monkeypatch):
    def none():
        raise AssertionError

    monkeypatch.setattr(compare.jax, "devices", none)
    with pytest.raises(config.ConfigError, match="JAX finds no device of"):
        train.run(exp, tmp_path / "work")


def test_text_is_read_before_its_tokens_are_written(exp, tmp_path):
    text = data.read_text(exp.data, tmp_path / "cache")
    assert text.tokenizer.vocab_size == 258 and not (tmp_path / "cache").exists()
    assert text.open().fingerprint == data.open_corpus(exp.data, tmp_path / "cache").fingerprint


def test_an_export_without_its_tokenizer_is_refused_before_weights_are_read(begun, place):
    run = place / "work" / "run"
    about = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(about | {"tokenizer": "tokenizer-1.json"}))
    before = _tree(place)
    with pytest.raises(train.CheckpointError, match=r"tokenizer-1.json, the tokenizer that"):
        run_folder.import_run(run, place / "exported")
    assert _tree(place) == before
