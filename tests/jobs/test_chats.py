"""Fine-tuning on conversations with tools, from two sources to a folder that gives the same ids."""

import dataclasses
import json

import jax
import numpy as np
import pytest
import tiny_jobs

from kanana_jax import config, generate, model
from kanana_jax.data import chat, conversations, whole_documents
from kanana_jax.jobs import chats, sft
from kanana_jax.model import presets
from kanana_jax.report import metrics, results
from kanana_jax.train import forward
from kanana_jax.weights import run_folder

TOOLS = [{"type": "function", "function": {"name": "add", "parameters": {"properties": {"a": {}}}}}]
CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}


def conversation(number: int, answer: str) -> list[dict]:
    return [
        {"role": "user", "content": f"{number}?"},
        {"role": "assistant", "content": "", "reasoning_content": "hm", "tool_calls": [CALL]},
        {"role": "tool", "content": "2"},
        {"role": "assistant", "content": answer},
    ]


@pytest.fixture
def cfg(tmp_path) -> sft.Config:
    paths = []
    for name, answer in (("short", "2"), ("long", "It is two.")):
        path = tmp_path / f"{name}.jsonl"
        records = [{"messages": conversation(n, answer), "tools": TOOLS} for n in range(20)]
        path.write_text("".join(json.dumps(one) + "\n" for one in records))
        paths.append(str(path))
    data = config.DataConfig(
        paths=tuple(paths), weights=(1.0, 1.0), seq_len=128, batch_size=8, heldout_fraction=0.3,
        cache_dir=str(tmp_path / "cache"),
    )  # fmt: skip
    base = tiny_jobs.pretraining(paths[0], data=data, mesh=config.MeshConfig())
    base = base.edited(["optimizer.name=adamw"])  # compiles faster
    return sft.Config(
        **{f.name: getattr(base, f.name) for f in dataclasses.fields(config.TrainingConfig)}
    )


@pytest.mark.long
def test_a_model_is_tuned_from_the_file_to_the_report(cfg, tmp_path, capsys):
    cfg = cfg.edited(["train.num_steps=24", "optimizer.lr=0.02"])
    sft.run(cfg, tmp_path / "work")
    columns = metrics.read_metrics(tmp_path / "work" / "run" / metrics.METRICS_NAME)
    loss = columns["loss"].values_N
    assert loss[-1] < 0.5 * loss[0]
    result = results.load(tmp_path / "work" / "run")
    assert result.status == "ok" and result.values["heldout_bpb"] < 8.0
    page = (tmp_path / "work" / "report.html").read_text()
    assert "held-out bits per byte" in page
    table = capsys.readouterr().out
    sft.run(cfg, tmp_path / "work")  # finished: nothing is trained again
    assert capsys.readouterr().out == table


@pytest.mark.long
def test_a_tuned_model_gives_the_ids_of_training_and_buckets_of_its_sources(cfg, tmp_path, capsys):
    cfg = cfg.edited(["train.num_steps=2"])
    sft.run(cfg, tmp_path / "work")
    shown = capsys.readouterr().err
    assert "of conversations in the format plain" in shown and "tool[2]" in shown
    assert "model[" in shown and "<257>]" in shown
    columns = metrics.read_metrics(tmp_path / "work" / "run" / metrics.METRICS_NAME)
    shares = [columns[f"share_trained_{one}"].values_N[-1] for one in ("short", "long")]
    assert sum(shares) == pytest.approx(1.0) and shares[0] < shares[1]
    for kind in ("heldout_bpb", "heldout_token_accuracy"):
        of_sources = [columns[f"{kind}_{one}"].values_N[-1] for one in ("short", "long")]
        whole = columns[kind].values_N[-1]
        assert min(of_sources) <= whole <= max(of_sources)

    run_folder.import_run(tmp_path / "work" / "run", tmp_path / "native")
    loaded = generate.load(tmp_path / "native", "float32")
    assert loaded.own_format is not None and loaded.template is not None
    fmt, used = loaded.own_format
    assert fmt is chat.PLAIN and used.eos_id in loaded.eos_ids
    examples = sft.JOB.read(cfg.data, tmp_path / "cache", print).open().examples
    messages = conversation(7, "2")
    ids = loaded.chat_ids(messages[:3], tools=TOOLS)
    text = loaded.template.render(messages[:3], tools=TOOLS)
    assert loaded.tokenizer.encode_marked(text) == ids, "clients may render the template"
    starts = [place.start for n in range(40) for place in examples.segments(n)]
    same = [one for one in starts if examples.tokens_T[one : one + len(ids)].tolist() == ids]
    assert len(same) == 2  # one of each source


@pytest.mark.long
def test_packed_conversations_have_the_log_probabilities_that_each_has_alone(cfg, tmp_path):
    corpus = sft.JOB.read(cfg.data, tmp_path / "cache", print).open()
    token_bytes_V = corpus.tokenizer.token_bytes_V
    shape = presets.tiny(corpus.vocab_size)
    weights = jax.jit(lambda key: model.init(shape, key))(jax.random.key(0))
    chosen, seq_len = np.array([0, 3, 25]), 512

    @jax.jit
    def logp(batch):
        return forward.log_probabilities(weights, batch, cfg=shape, execution=presets.LAPTOP)

    def of_row(row_N):
        row = whole_documents.make_row(corpus.examples, row_N, token_bytes_V, seq_len, {})
        found_S = logp(row.map(lambda column: column[None]))[0]
        return np.asarray(found_S)[row.loss_mask == 1]

    packed = of_row(chosen)
    alone = np.concatenate([of_row(chosen[n : n + 1]) for n in range(len(chosen))])
    assert len(packed) == corpus.examples.is_target_T[_tokens_of(corpus, chosen)].sum()
    np.testing.assert_allclose(packed, alone, rtol=0, atol=1e-5 * np.abs(alone).max())


def _tokens_of(corpus, chosen):
    places = [place for n in chosen for place in corpus.examples.segments(int(n))]
    return np.concatenate([np.arange(place.start, place.stop) for place in places])


def test_a_template_that_writes_other_text_is_a_mistake_of_the_program(cfg, tmp_path):
    fmt = dataclasses.replace(chat.PLAIN, template=chat.HERMES.template)
    corpus = conversations.read(cfg.data, tmp_path / "cache", fmt=fmt).open()
    with pytest.raises(ValueError, match="expected the template of the format plain to write"):
        chats.begin(corpus, [tmp_path / "run"])
    chats.begin(dataclasses.replace(corpus, format=chat.PLAIN), [tmp_path / "run"])
    assert (tmp_path / "run" / "chat_template.jinja").read_text() == chat.PLAIN.template


def test_a_sample_shows_who_wrote_what(cfg, tmp_path):
    corpus = sft.JOB.read(cfg.data, tmp_path / "cache", print).open()
    text = chats.described(corpus, is_coloured=False)
    assert "template[<256>tools: ]user[add(a)]template[\nuser: ]user[" in text
    assert 'model[~~hm~~@add {"a":1}<257>]template[tool: ]tool[2]template[' in text
    coloured = chats.described(corpus, is_coloured=True)
    assert '\x1b[32m~~hm~~@add {"a":1}<257>\x1b[0m' in coloured
