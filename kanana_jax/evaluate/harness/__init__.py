"""The model class for EleutherAI's lm-evaluation-harness (extra `evaluate`).

    python -m kanana_jax.evaluate.harness run --model kanana_jax \
        --model_args checkpoint=DIR,length=4096 --batch_size 16 --tasks hellaswag

The harness knows models that register themselves on import. Importing this module does so; the
command is the harness's own, run after this import.
"""

from typing import Any

from kanana_jax import config, extras, generate
from kanana_jax.evaluate import scoring
from kanana_jax.generate import chat, neutral

# The harness lives in an environment of its own.
with extras.needed("train", "evaluate"):
    import tqdm
    from lm_eval.api.model import TemplateLM  # pyright: ignore[reportMissingImports]
    from lm_eval.api.registry import register_model  # pyright: ignore[reportMissingImports]
    from lm_eval.models.utils import (  # pyright: ignore[reportMissingImports]
        normalize_gen_kwargs,
    )

_HARNESS_DEVICE = "cuda:0"  # what the command passes when no device is asked for


@register_model("kanana_jax")
class KananaJax(TemplateLM):
    """Scores and generates with a model folder or a Hugging Face one.

    checkpoint: the folder. length: the longest context and continuation together, in tokens.
    batch_size: requests at a time. max_gen_toks: for a task that sets none.
    """

    def __init__(
        self,
        checkpoint: str,
        *,
        dtype: str | None = None,
        length: int = 2048,
        batch_size: int | str = 8,
        max_batch_size: int | None = None,
        max_gen_toks: int = 256,
        tensor_parallel: int = 1,
        device: str | None = None,
    ):
        super().__init__()
        if not str(batch_size).isdecimal() or max_batch_size is not None:
            raise config.ConfigError(
                f"batch_size must be a number of requests, got {batch_size!r} and max_batch_size "
                f"{max_batch_size}; give --batch_size=8 or another number, and no maximum"
            )
        if device not in (None, _HARNESS_DEVICE):
            raise config.ConfigError(
                f"device is chosen by JAX, got {device!r}; leave it out, and set JAX_PLATFORMS"
            )
        self._loaded = generate.load(checkpoint, dtype, tensor_parallel=int(tensor_parallel))
        self._num_rows, self._length = int(batch_size), int(length)
        self._max_gen_toks = int(max_gen_toks)
        self._is_chat = False

    @property
    def eot_token_id(self) -> int:
        return self._loaded.eos_ids[0] if self._loaded.eos_ids else self.prefix_token_id

    @property
    def prefix_token_id(self) -> int:
        return scoring.prefix_id(self._loaded)

    @property
    def max_length(self) -> int:
        return self._length

    @property
    def tokenizer_name(self) -> str:
        return f"kanana_jax-{self._loaded.tokenizer.digest}"

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """The source of the checkpoint's one template, whatever name is asked for."""
        if not chat_template:
            return None
        return self._template().source

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        # From now on text has special tokens where the template spelled them.
        self._is_chat = True
        return self._template().render(chat_history, add_generation_prompt=add_generation_prompt)

    def _template(self) -> chat.Template:
        if self._loaded.template is None:
            raise chat.ChatError(chat.no_template_message(self._loaded.directory))
        return self._loaded.template

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **kwargs: Any
    ) -> list[int]:
        if self._is_chat:
            return self._loaded.tokenizer.encode_marked(string)
        if add_special_tokens is False:
            return [int(token) for token in self._loaded.tokenizer.encode(string)]
        return self._loaded.prompt_ids(string)

    def _loglikelihood_tokens(
        self, requests: list[Any], disable_tqdm: bool = False, **kwargs: Any
    ) -> list[tuple[float, bool]]:
        pairs = [scoring.Pair(context, continuation) for _, context, continuation in requests]
        found = self._score(pairs, disable_tqdm)
        answers = [(one.loglikelihood, one.is_greedy) for one in found]
        for (text, _, _), answer in zip(requests, answers, strict=True):
            self.cache_hook.add_partial("loglikelihood", text, answer)
        return answers

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        pairs, owners = [], []
        for place, request in enumerate(requests):
            ids = self.tok_encode(request.args[0], add_special_tokens=False)
            cut = scoring.windows(ids, self.prefix_token_id, self._length)
            pairs += cut
            owners += [place] * len(cut)
        totals = [0.0] * len(requests)
        for owner, score in zip(owners, self._score(pairs, disable_tqdm), strict=True):
            totals[owner] += score.loglikelihood
        for request, total in zip(requests, totals, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, total)
        return totals

    def _score(self, pairs: list[scoring.Pair], disable_tqdm: bool) -> list[scoring.Score]:
        scorer = scoring.Scorer(self._loaded, num_rows=self._num_rows, length=self._length)
        scores: list[scoring.Score | None] = [None] * len(pairs)
        with tqdm.tqdm(total=len(pairs), disable=disable_tqdm, desc="scoring") as bar:
            for place, score in scorer.score(pairs):
                scores[place] = score
                bar.update()
        return [score for score in scores if score is not None]

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        engine = self._loaded.engine(num_rows=self._num_rows, length=self._length)
        asked = [self._request(place, *request.args) for place, request in enumerate(requests)]
        texts = [""] * len(asked)
        with tqdm.tqdm(total=len(asked), disable=disable_tqdm, desc="generating") as bar:
            for piece in engine.run(asked):
                texts[piece.request] += piece.text
                bar.update(piece.finish_reason is not None)
        for request, text in zip(requests, texts, strict=True):
            self.cache_hook.add_partial("generate_until", request.args, text)
        return texts

    def _request(self, place: int, context: str, gen_kwargs: dict[str, Any]) -> generate.Request:
        options = dict(normalize_gen_kwargs(gen_kwargs, self._max_gen_toks))
        until, max_tokens = options.pop("until"), options.pop("max_gen_toks")
        room = self._length - max_tokens
        if room < 1:
            raise config.ConfigError(
                f"max_gen_toks = {max_tokens} leaves no room for a prompt in length = "
                f"{self._length}; raise length in --model_args"
            )
        return generate.Request(
            prompt=self.tok_encode(context)[-room:],
            max_tokens=max_tokens,
            sampling=neutral.to_sampling(options, place=place),
            stop=tuple(one for one in until if one),
        )
