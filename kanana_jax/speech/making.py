"""Toy speech made ready to train on: the codec, the tokenizer, and conversations."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from kanana_jax import extras
from kanana_jax.data import tokenizer
from kanana_jax.speech import folder, learning, mel, toy, vocabulary, voices
from kanana_jax.speech.codec import Codec, CodecConfig
from kanana_jax.speech.errors import SpeechError

_NUM_HELD_OUT = 256
_HEARD = "heard"


class Sizes(NamedTuple):
    """How much is made."""

    utterances: int
    steps: int  # of the codec's training
    codes: int
    seed: int


def make(out: Path, sizes: Sizes, report: Callable[[str], None]) -> None:
    """Writes the folder that `python -m kanana_jax.speech` describes; SpeechError if it cannot."""
    if min(sizes[:3]) < 1:
        raise SpeechError(f"--utterances, --steps and --codes must be positive, got {sizes[:3]}")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SpeechError(f"{out} cannot be made ({error}); choose another folder") from None
    seed = sizes.seed
    trained = list(toy.utterances(sizes.utterances, seed=seed, variants=voices.TRAINED))
    known = {one.text for one in trained}
    spoken = toy.utterances(_NUM_HELD_OUT, seed=seed + 1, variants=voices.HELD_OUT)
    held_out = [one for one in spoken if one.text not in known]
    report(
        f"{len(trained)} utterances of {len(voices.TRAINED)} voices, "
        f"{sum(one.seconds for one in trained) / 60:.1f} min; held out: {len(held_out)} of "
        f"{len(voices.HELD_OUT)} other voices"
    )
    cfg = CodecConfig(num_codes=sizes.codes)
    of = learning.train(
        cfg,
        [one.mel_FM for one in trained],
        num_steps=sizes.steps,
        seed=seed,
        report=lambda step, error: report(f"codec: step {step}, error {error:.4f}"),
    )
    measured = learning.measure(cfg, of, [one.mel_FM for one in held_out])
    report(f"codec on held-out voices: {measured}")
    names = tuple(f"{language}-{one}" for language in ("en", "ko") for one in voices.TRAINED)
    folder.write(out, folder.Speaker(cfg, of, names))
    (out / "codec.json").write_text(json.dumps(measured._asdict(), indent=1) + "\n")
    of_bytes = tokenizer.train_bpe([], vocab_size=258)
    (out / "tokenizer.json").write_text(vocabulary.with_codes(of_bytes.json, cfg.num_codes))
    for name, some in (("train", trained), ("heldout", held_out)):
        _write_conversations(out / f"{name}.jsonl", of, some)
        write_sounds(out / _HEARD, name, some)


def _write_conversations(path: Path, of: Codec, some: Sequence[toy.Utterance]) -> None:
    """Two for each utterance: said, and written down."""
    conversations = []
    for one, codes in zip(some, learning.tokens(of, [x.mel_FM for x in some]), strict=True):
        said, voice = vocabulary.spelt(codes), f"{one.voice.language}-{one.voice.variant}"
        conversations += [(vocabulary.to_say(voice, one.text), said), (said, one.text)]
    _write(path, conversations)


def write_sounds(folder: Path, name: str, some: Sequence[toy.Utterance]) -> None:
    """Sounds as files, and conversations NAME.jsonl in which each is written down."""
    with extras.needed("speech"):
        import soundfile
    folder.mkdir(exist_ok=True)
    conversations = []
    for number, one in enumerate(some):
        file = f"{name}-{number:05d}.flac"
        soundfile.write(folder / file, one.samples_T, mel.SAMPLE_RATE)
        conversations.append(([{"type": "audio", "path": file}], one.text))
    _write(folder / f"{name}.jsonl", conversations)


def _write(path: Path, conversations: Sequence[tuple[Any, str]]) -> None:
    """Writes pairs of what a user says, and the answer."""
    lines = []
    for asked, answer in conversations:
        messages = [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]
        lines.append(json.dumps({"messages": messages}, ensure_ascii=False))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
