"""Makes toy speech ready to train on: python -m kanana_jax.speech --out=DIR.

    DIR/speech.json, codec.safetensors   the codec, trained on the voices that are trained on
    DIR/tokenizer.json                   bytes, two special tokens and the codes
    DIR/train.jsonl, heldout.jsonl       conversations: texts to say, and codes to write down;
                                         heldout has other sentences of other voices
    DIR/codec.json                       what the codec does to the held-out voices

Train on them by --experiment=speech_small. Exit code 2: espeakng-loader is missing, or the folder
cannot be written.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from kanana_jax import errors, extras
from kanana_jax.speech.errors import SpeechError

with extras.needed("train"):
    from kanana_jax.data import tokenizer
    from kanana_jax.speech import folder, learning, toy, vocabulary, voices
    from kanana_jax.speech.codec import Codec, CodecConfig

_PROGRAM = "kanana_jax.speech"
_NUM_HELD_OUT = 256


def main(argv: list[str] | None = None) -> None:
    arguments = _parser().parse_args(argv)
    with errors.reported(_PROGRAM):
        _make(arguments)


def _make(arguments: argparse.Namespace) -> None:
    if arguments.utterances < 1 or arguments.steps < 1:
        raise SpeechError(
            f"--utterances and --steps must be positive, got {arguments.utterances} and "
            f"{arguments.steps}"
        )
    out = Path(arguments.out)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SpeechError(f"{out} cannot be made ({error}); choose another folder") from None
    seed = arguments.seed
    trained = list(toy.utterances(arguments.utterances, seed=seed, variants=voices.TRAINED))
    known = {one.text for one in trained}
    spoken = toy.utterances(_NUM_HELD_OUT, seed=seed + 1, variants=voices.HELD_OUT)
    held_out = [one for one in spoken if one.text not in known]
    print(
        f"{len(trained)} utterances of {len(voices.TRAINED)} voices, "
        f"{sum(one.seconds for one in trained) / 60:.1f} min; held out: {len(held_out)} of "
        f"{len(voices.HELD_OUT)} other voices",
        flush=True,
    )
    cfg = CodecConfig(num_codes=arguments.codes)
    of = learning.train(
        cfg,
        [one.mel_FM for one in trained],
        num_steps=arguments.steps,
        seed=seed,
        report=lambda step, error: print(f"codec: step {step}, error {error:.4f}", flush=True),
    )
    measured = learning.measure(cfg, of, [one.mel_FM for one in held_out])
    print(f"codec on held-out voices: {measured}", flush=True)
    names = tuple(f"{language}-{one}" for language in ("en", "ko") for one in voices.TRAINED)
    folder.write(out, folder.Speaker(cfg, of, names))
    (out / "codec.json").write_text(json.dumps(measured._asdict(), indent=1) + "\n")
    of_bytes = tokenizer.train_bpe([], vocab_size=258)
    (out / "tokenizer.json").write_text(vocabulary.with_codes(of_bytes.json, cfg.num_codes))
    for name, some in (("train", trained), ("heldout", held_out)):
        _write_conversations(out / f"{name}.jsonl", of, some)


def _write_conversations(path: Path, of: Codec, some: Sequence[toy.Utterance]) -> None:
    """Two of each utterance: said, and written down."""
    lines = []
    for one, codes in zip(some, learning.tokens(of, [x.mel_FM for x in some]), strict=True):
        said, voice = vocabulary.spelt(codes), f"{one.voice.language}-{one.voice.variant}"
        for asked, answer in ((vocabulary.to_say(voice, one.text), said), (said, one.text)):
            messages = [
                {"role": "user", "content": asked},
                {"role": "assistant", "content": answer},
            ]
            lines.append(json.dumps({"messages": messages}, ensure_ascii=False))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"python -m {_PROGRAM}", allow_abbrev=False)
    parser.add_argument("--out", required=True, help="a folder")
    parser.add_argument("--utterances", type=int, default=2000, help="to train on")
    parser.add_argument("--steps", type=int, default=2000, help="of the codec's training")
    parser.add_argument("--codes", type=int, default=512)
    parser.add_argument("--seed", type=int, default=0)
    return parser


if __name__ == "__main__":
    main()
