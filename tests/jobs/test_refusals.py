"""Everything that is refused is refused before the first byte is written."""

import dataclasses
import json
import shutil

import jax
import pytest
import tiny_jobs

from kanana_jax import checkpoint, config, data
from kanana_jax.data import tokenizer
from kanana_jax.errors import UserError
from kanana_jax.jobs import pretrain, sweep, training
from kanana_jax.weights import native, run_folder
from kanana_jax.workdir import Run, lock

pytestmark = pytest.mark.slow


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
def place(cfg, tmp_path, monkeypatch):
    """The current folder, with text, tokenizers, a model to start from and a file."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "short.txt").write_text("a few words")
    (tmp_path / "utf16.txt").write_bytes(b"\xff\xfe\x00bad")
    bpe = tokenizer.train_bpe([b"muon clip polar"] * 9, 270)
    (tmp_path / "tokenizer.json").write_text(bpe.json)
    shape = dataclasses.replace(cfg.model, vocab_size=bpe.vocab_size)
    model = tmp_path / "model"
    model.mkdir()
    (model / native.CONFIG_NAME).write_text(
        json.dumps({"model": dataclasses.asdict(shape), "hugging_face": {}})
    )
    (model / "tokenizer.json").write_text(bpe.json)
    return tmp_path


def _run(cfg, workdir, job=pretrain.JOB):
    """As pretrain.run does, without figures."""
    plan = training.Plan(cfg, {}, [Run({}, cfg, workdir / "run")], lambda *_: "done")
    training.run_all(job, plan, workdir)


def _compare(base, arms, workdir, job=pretrain.JOB):
    sweep.of(job, lambda *_: "done")(sweep.Sweep(base=base, arms=arms), workdir)


def _arms(*edits_of_arms):
    return tuple(
        sweep.Arm(name=f"arm {number}", edits=edits) for number, edits in enumerate(edits_of_arms)
    )


# Edits of `cfg`, and what the refusal says. There are eight devices here.
ON_EIGHT = ("mesh.data=8",)
REFUSED = {
    "mesh too small": (("mesh.data=4",), "do not multiply to the 8 devices"),
    "mesh axis zero": (("mesh.data=0",), "mesh.data must lie in"),
    "two open axes": (("mesh.data=-1", "mesh.fsdp=-1"), "at most one mesh axis"),
    "slices": (("mesh.data=8", "mesh.num_slices=3"), "does not divide over mesh.num_slices"),
    "batch": ((*ON_EIGHT, "data.batch_size=9"), "data.batch_size = 9 does not divide"),
    "micro-batches": (
        (*ON_EIGHT, "execution.accumulation_steps=3"),
        "must divide data.batch_size = 8, got 3",
    ),
    "sequence": (("mesh.data=1", "mesh.context=8", "data.seq_len=33"), "data.seq_len = 33"),
    "heads": (("mesh.data=1", "mesh.tensor=8"), "model.num_heads = 4 does not divide"),
    "experts": (("mesh.data=1", "mesh.expert=8"), "model.num_experts = 4 does not divide"),
    "hidden": (("mesh.data=1", "mesh.fsdp=8", "model.hidden_size=36"), "model.hidden_size = 36"),
    "vocabulary": ((*ON_EIGHT, "model.vocab_size=100"), "smaller than the tokenizer's 258"),
    "kernel": (
        (*ON_EIGHT, "execution.attention_implementation=mosaic_gpu"),
        "cannot be trained here",
    ),
    "product": (
        (*ON_EIGHT, "execution.grouped_matmul_implementation=mosaic_gpu"),
        "cannot be trained",
    ),
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
}
REFUSED_ARMS = {
    "shape": (_arms((), ("mesh.fsdp=3",)), "do not multiply to the 8 devices"),
    "batch": (_arms((), ("data.batch_size=9",)), "data.batch_size = 9"),
    "vocabulary": (_arms((), ("model.vocab_size=9",)), "smaller than the tokenizer's"),
    "text": (_arms((), ("data.paths=short.txt",)), "distinct text for a training"),
    "kernel": (
        _arms(("execution.attention_implementation=mosaic_gpu",), ()),
        "arm 0 seed 0 cannot be trained here",
    ),
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


def _assert_refused(run, place, message, errors=UserError):
    before = _tree(place)
    with pytest.raises(errors, match=message) as caught:
        run()
    assert "\n" not in str(caught.value)
    assert _tree(place) == before


@pytest.mark.parametrize("name", REFUSED)
def test_a_refusal_comes_before_the_first_byte(cfg, place, name):
    edits, message = REFUSED[name]
    _assert_refused(lambda: _run(cfg.edited(edits), place / "work"), place, message)


@pytest.mark.parametrize("name", REFUSED_ARMS)
def test_an_arm_that_cannot_run_is_refused_before_the_first_byte(cfg, place, name):
    arms, message = REFUSED_ARMS[name]
    base = cfg.edited(ON_EIGHT)
    _assert_refused(lambda: _compare(base, arms, place / "work"), place, message)


def test_values_of_an_axis_given_twice_are_refused_before_the_first_byte(cfg, place):
    axes = (sweep.Axis("optimizer.lr", (0.1,)),)
    made = sweep.Sweep(base=cfg.edited(ON_EIGHT), axes=axes)

    def run():
        sweep.of(pretrain.JOB)(made.edited(["optimizer.lr=0.1,0.1"]), place / "work")

    _assert_refused(run, place, "must differ from each other")


BEGUN_WITH = (*ON_EIGHT, "data.paths=words.txt", "train.checkpoint_dir=c", "train.num_steps=2")


@pytest.fixture(scope="module")
def begun_once(text_file, tmp_path_factory):
    """A working directory in which two steps of a run were done and saved; its end was lost."""
    folder = tmp_path_factory.mktemp("begun")
    shutil.copy(text_file, folder / "words.txt")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        _run(tiny_jobs.pretraining(text_file).edited(BEGUN_WITH), folder / "work")
    (folder / "work" / "run" / "result.json").unlink()
    return folder


@pytest.fixture
def begun(cfg, place, begun_once):
    shutil.copytree(begun_once, place, dirs_exist_ok=True)
    return cfg.edited(BEGUN_WITH)


def _changed_text(place):
    (place / "words.txt").write_text((place / "words.txt").read_text().replace("muon", "mu0n", 1))


def _lost(place):
    (place / "c" / "test" / "run" / "2").rename(place / "2")


def _of_another_run(place):
    path = place / "work" / "run" / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"axes": {"arm": "other"}}))


def _of_another_folder(place):
    (place / "work" / "checkpoints.json").write_text('{"id": "other"}')


def _of_an_earlier_version(place):
    path = place / "work" / "config.json"
    saved = json.loads(path.read_text())
    saved["model"] |= saved.pop("execution")
    path.write_text(json.dumps(saved))


BEGUN = {
    "settings": (None, ("optimizer.tau=7",), config.ConfigError, r"optimizer\.tau: 0.5 -> 7.0"),
    "text": (_changed_text, (), config.ConfigError, "the tokenizer has changed"),
    "fewer steps": (
        None,
        ("train.num_steps=1", "resume.allow=train.num_steps"),
        config.ConfigError,
        "less than the 2 steps",
    ),
    "lost checkpoints": (_lost, (), checkpoint.NoUsableCheckpointError, "was saved at step 2"),
    "moved checkpoints": (
        None,
        ("train.checkpoint_dir=other", "resume.allow=train.checkpoint_dir"),
        checkpoint.NoUsableCheckpointError,
        "was saved at step 2",
    ),
    "another run's folder": (_of_another_run, (), config.ConfigError, "holds the run of"),
    "another's checkpoints": (_of_another_folder, (), config.ConfigError, "holds the checkpoints"),
    "an earlier version": (
        _of_an_earlier_version,
        (),
        config.ConfigError,
        "earlier version.*--workdir, or .* kanana_jax.convert --from-run=",
    ),
    "kernel": (
        None,
        ("execution.attention_implementation=mosaic_gpu", "resume.allow=execution"),
        config.ConfigError,
        "cannot be trained here",
    ),
}


@pytest.mark.parametrize("name", BEGUN)
def test_a_run_that_was_begun_stays_as_it_is(begun, place, name):
    change, edits, error, message = BEGUN[name]
    if change is not None:
        change(place)
    _assert_refused(lambda: _run(begun.edited(edits), place / "work"), place, message, error)


def test_a_directory_in_use_is_refused_before_the_text_is_kept(begun, place):
    elsewhere = begun.edited(["data.cache_dir=elsewhere"])
    with lock.held(place / "work"):
        _assert_refused(lambda: _run(elsewhere, place / "work"), place, "is in use by process")


@pytest.mark.long
def test_arms_read_the_text_and_tokenizer_that_they_name(cfg, place):
    """And runs that differ only in the order of their data share one corpus."""
    seen = []

    def evaluators(corpus, cfg, train, built):
        seen.append((corpus, built))
        return ()

    arms = _arms((), ("data.tokenizer=tokenizer.json",), ("data.seed=3",), ("mesh.fsdp=2",))
    base = cfg.edited(["mesh.data=-1", "train.num_steps=1"])
    _compare(base, arms, place / "work", pretrain.JOB._replace(evaluators=evaluators))
    corpora, built = zip(*seen, strict=True)
    embeds = [one.steps.like.weights.params["embed"] for one in built]
    assert [embed.shape[0] for embed in embeds] == [258, 270, 258, 258]
    assert corpora[0] is corpora[2] is corpora[3] is not corpora[1]
    assert [one.mesh.shape["fsdp"] for one in built] == [1, 1, 1, 2]
    run = json.loads((place / "work/runs/arm-1-seed0/run.json").read_text())
    kept = place / "work" / run["tokenizer"]
    assert kept.read_text() == (place / "tokenizer.json").read_text()
    fingerprint = json.loads((place / "work" / "data.json").read_text())["fingerprint"]
    assert fingerprint == ",".join(dict.fromkeys(one.fingerprint for one in corpora))


def test_no_device_of_the_platform_is_one_line(cfg, tmp_path, monkeypatch):
    def none():
        raise AssertionError

    monkeypatch.setattr(jax, "devices", none)
    with pytest.raises(config.ConfigError, match="JAX finds no device of"):
        pretrain.run(cfg, tmp_path / "work")


def test_text_is_read_before_its_tokens_are_written(cfg, tmp_path):
    text = data.read_text(cfg.data, tmp_path / "cache")
    assert text.tokenizer.vocab_size == 258 and not (tmp_path / "cache").exists()
    assert text.open().fingerprint == data.open_corpus(cfg.data, tmp_path / "cache").fingerprint


def test_an_export_without_its_tokenizer_is_refused_before_weights_are_read(begun, place):
    run = place / "work" / "run"
    about = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(about | {"tokenizer": "tokenizer-1.json"}))
    message = r"tokenizer-1.json, the tokenizer that"
    _assert_refused(
        lambda: run_folder.import_run(run, place / "exported"),
        place,
        message,
        checkpoint.CheckpointError,
    )
