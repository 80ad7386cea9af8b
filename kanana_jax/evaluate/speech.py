"""What a speech model hears and says: python -m kanana_jax.evaluate.speech --checkpoint=DIR [...].

    --conversations=heldout.jsonl        as `python -m kanana_jax.speech` writes them; those of
                                         heard/ for a model with an encoder of sounds

    cer_heard        character errors in its transcripts of held-out voices, over characters
    exact_heard      share of utterances without an error
    token_accuracy   share of held-out codes that are the most likely ones given those before them
    cer_said         as cer_heard, of its own speech in voices that it knows; the same model
                     listens, so this is how far its speaking and its hearing agree
    cer_shuffled     control: its transcripts against the texts of other utterances

A model with an encoder has no figures for codes. --out writes the same as JSON. Exit code 2: the
folder, the file or a setting cannot be used.
"""

import argparse
import itertools
import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from kanana_jax import errors, generate
from kanana_jax.data import files, jsonl, media_chats
from kanana_jax.data.errors import DataError
from kanana_jax.evaluate import scoring
from kanana_jax.generate import Request, Room, Sampling, command, sound_prompts
from kanana_jax.generate.answers import answers
from kanana_jax.speech import chats, vocabulary, voices

_PROGRAM = "kanana_jax.evaluate.speech"
_MIN_P = 0.05


class Spoken(NamedTuple):
    """A text, and the message that spells its sound."""

    text: str
    said: str


class Sound(NamedTuple):
    """A text, and the features of its sound."""

    text: str
    mel_FM: Float[np.ndarray, "F M"]


def measure(loaded: generate.Loaded, spoken: Sequence[Spoken], *, length: int) -> dict[str, float]:
    """The figures of two or more held-out utterances as codes."""
    engine = loaded.engine(num_rows=16, length=length, prompts_at_once=4)
    heard = _written_down(loaded, engine, [one.said for one in spoken], length)
    texts = [one.text for one in spoken]
    known = [f"{language}-{one}" for language in ("en", "ko") for one in voices.TRAINED]
    rng = random.Random(0)
    asked = [_as_asked(one.text, known, rng) for one in spoken]
    said = answers(
        engine,
        [
            _request(loaded, content, length, Sampling(min_p=_MIN_P, seed=place))
            for place, content in enumerate(asked)
        ],
    )
    heard_again = _written_down(loaded, engine, [one.text for one in said], length)
    return figures(texts, heard) | {
        "token_accuracy": _token_accuracy(loaded, spoken, known, length),
        "cer_said": character_error_rate(texts, heard_again),
    }


def measure_sounds(
    loaded: generate.Loaded, sounds: Sequence[Sound], *, length: int
) -> dict[str, float]:
    """The figures of held-out utterances as sounds, for a model that has an encoder."""
    shape = loaded.cfg.audio
    assert shape is not None  # the caller has checked
    longest = max(len(one.mel_FM) for one in sounds)
    room = Room(sounds=1, sound_frames=shape.whole_positions(longest))
    engine = loaded.engine(num_rows=16, length=length, prompts_at_once=4, room=room)
    asked = [{"role": "user", "content": chats.MARK}]
    requests = []
    for one in sounds:
        prompt = sound_prompts.encode(loaded, asked, [one.mel_FM], room)
        left = length - len(prompt.ids)
        if left < 1:
            raise DataError(
                f"--length: expected more than {len(prompt.ids)}, the positions of a sound, got "
                f"{length}"
            )
        requests.append(
            Request(
                prompt=prompt.ids,
                max_tokens=left,
                sampling=Sampling(temperature=0.0),
                features=prompt.sounds,
            )
        )
    heard = [one.text for one in answers(engine, requests)]
    return figures([one.text for one in sounds], heard)


def figures(texts: Sequence[str], heard: Sequence[str]) -> dict[str, float]:
    """The figures of what was said against what was written down, two utterances or more."""
    return {
        "utterances": float(len(texts)),
        "cer_heard": character_error_rate(texts, heard),
        "exact_heard": sum(map(str.__eq__, texts, heard)) / len(texts),
        "cer_shuffled": character_error_rate([*texts[1:], texts[0]], heard),
    }


def character_error_rate(wanted: Sequence[str], got: Sequence[str]) -> float:
    """Insertions, deletions and substitutions over the characters that were wanted."""
    return sum(map(_distance, wanted, got)) / sum(map(len, wanted))


def _distance(wanted: str, got: str) -> int:
    row = list(range(len(got) + 1))
    for i, one in enumerate(wanted, start=1):
        before, row[0] = row[0], i
        for j, other in enumerate(got, start=1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (one != other))
    return row[-1]


def read(path: Path, most: int) -> list[Spoken]:
    """The first utterances of a file of conversations. DataError where there are fewer than two."""
    found = []
    for record in _records(path):
        asked, answer = (one["content"] for one in record.fields["messages"])
        if isinstance(asked, str) and vocabulary.codes_in(asked):
            found.append(Spoken(answer, asked))
    return _enough(path, found, "that write down codes,")[:most]


def read_sounds(path: Path, most: int) -> list[Sound]:
    """As `read`, for a file whose conversations name sound files."""
    found = []
    (file,) = files.find(str(path))
    for record in itertools.islice(_records(path), most):
        asked, answer = record.fields["messages"]
        _, sounds = media_chats.in_text(chats.SOUNDS, [asked], file, record.where)
        if len(sounds) == 1:
            found.append(Sound(answer["content"], chats.frames(sounds[0].read())))
    return _enough(path, found, "that write down a sound, of heard/,")


def _records(path: Path) -> Iterator[jsonl.Record]:
    for record in jsonl.read(jsonl.find(str(path))):
        if isinstance(record, DataError):
            raise record
        yield record


def _enough[One](path: Path, found: list[One], kind: str) -> list[One]:
    if len(found) < 2:
        raise DataError(
            f"{path} must hold conversations {kind} got {len(found)}; make it with "
            "python -m kanana_jax.speech"
        )
    return found


def _as_asked(text: str, known: Sequence[str], rng: random.Random) -> str:
    language = "en" if text.isascii() else "ko"
    voice = rng.choice([one for one in known if one.startswith(language)])
    return vocabulary.to_say(voice, text)


def _written_down(
    loaded: generate.Loaded, engine: generate.Engine, said: Sequence[str], length: int
) -> list[str]:
    requests = [_request(loaded, one or " ", length, Sampling(temperature=0.0)) for one in said]
    return [one.text for one in answers(engine, requests)]


def _request(loaded: generate.Loaded, content: str, length: int, how: Sampling) -> Request:
    prompt = loaded.chat_ids([{"role": "user", "content": content}])[: length - 1]
    return Request(prompt=prompt, max_tokens=length - len(prompt), sampling=how)


def _token_accuracy(
    loaded: generate.Loaded, spoken: Sequence[Spoken], known: Sequence[str], length: int
) -> float:
    rng = random.Random(0)
    pairs = []
    for one in spoken:
        asked = {"role": "user", "content": _as_asked(one.text, known, rng)}
        codes = loaded.tokenizer.encode(one.said).tolist()
        pairs.append(scoring.Pair(loaded.chat_ids([asked]), codes))
    scorer = scoring.Scorer(loaded, num_rows=16, length=length)
    num_best = sum(score.num_greedy for _, score in scorer.score(pairs))
    return num_best / sum(len(pair.continuation) for pair in pairs)


def main(argv: list[str] | None = None) -> None:
    parser = command.model_parser(_PROGRAM)
    parser.add_argument("--conversations", required=True)
    parser.add_argument("--utterances", type=int, default=128)
    parser.add_argument("--length", type=int, default=512, help="tokens of a conversation")
    parser.add_argument("--out", help="a file for the figures as JSON")
    arguments = parser.parse_args(argv)
    with errors.reported(_PROGRAM):
        found = _measured(arguments)
    for name, value in found.items():
        print(f"{name:16s} {value:.4f}")
    if arguments.out:
        Path(arguments.out).write_text(json.dumps(found, indent=1) + "\n")


def _measured(arguments: argparse.Namespace) -> dict[str, float]:
    path, most, length = Path(arguments.conversations), arguments.utterances, arguments.length
    loaded = command.load(arguments)
    if loaded.cfg.audio is not None:
        chats.check(loaded.cfg.audio)
        return measure_sounds(loaded, read_sounds(path, most), length=length)
    return measure(loaded, read(path, most), length=length)


if __name__ == "__main__":
    main()
