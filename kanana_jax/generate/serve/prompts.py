"""What a request is answered from: the ids of a text or of a conversation, and its media."""

import asyncio
import functools
from collections.abc import Mapping, Sequence
from typing import Any

from kanana_jax.data.chat.dialects import Thinking
from kanana_jax.generate.chat import ChatError
from kanana_jax.generate.load import Loaded
from kanana_jax.generate.serve import hearing, images
from kanana_jax.generate.serve.fields import ApiError
from kanana_jax.generate.serve.hearing import SoundLimits
from kanana_jax.generate.serve.images import ImageLimits, Prompt
from kanana_jax.generate.serve.tools import Tooling

_MANY_CHARACTERS = 20_000  # more text is tokenized in a thread


class Prompts:
    """Makes the prompts of a model; what takes long is done off the event loop."""

    def __init__(
        self, loaded: Loaded, image_limits: ImageLimits | None, sound_limits: SoundLimits | None
    ):
        self._loaded = loaded
        self._image_limits, self._sound_limits = image_limits, sound_limits

    async def of_text(self, given: str | list[int]) -> list[int]:
        if not isinstance(given, str):
            return given
        encode, is_long = self._loaded.prompt_ids, len(given) > _MANY_CHARACTERS
        return await asyncio.to_thread(encode, given) if is_long else encode(given)

    async def of_conversation(
        self,
        conversation: list[dict[str, Any]],
        tooling: Tooling,
        variables: Mapping[str, Any],
        image_urls: Sequence[str] = (),
        sounds: Sequence[hearing.Mel] = (),
    ) -> Prompt:
        """Raises ApiError with status 400 where the template or the media cannot be used."""
        self._expect_read(tooling, variables)
        loaded, told = self._loaded, tooling.told or None
        make = functools.partial(
            images.prompt, loaded, conversation, image_urls, self._image_limits, told, variables
        )
        if sounds:
            assert self._sound_limits is not None  # else no sounds are collected
            make = functools.partial(
                hearing.prompt, loaded, conversation, sounds, self._sound_limits, told, variables
            )
        try:
            return await asyncio.to_thread(make)
        except ChatError as error:
            raise ApiError(400, str(error), param="messages") from None

    def thinking_after(self, ids: Sequence[int]) -> Thinking:
        """In which state the template has left the reasoning."""
        dialect = self._loaded.dialect
        if dialect is None or dialect.is_line:
            return "possible"
        end = self._loaded.tokenizer.decode_marked(ids[-16:]).rstrip()
        opening, closing = dialect.thought
        return "open" if end.endswith(opening) else "over" if end.endswith(closing) else "possible"

    def _expect_read(self, tooling: Tooling, variables: Mapping[str, Any]) -> None:
        template, dialect = self._loaded.template, self._loaded.dialect
        if template is None:
            return
        if tooling.told and (dialect is None or not template.reads("tools")):
            raise ApiError(
                400,
                "tools are not supported here: the chat template of this model does not tell "
                "them, or writes calls in a form that this server does not read",
                param="tools",
                code="unsupported_parameter",
            )
        if "documents" in variables and not template.reads("documents"):
            raise ApiError(
                400,
                "documents are not supported here: the chat template of this model does not "
                "read them; put their text into a message",
                param="documents",
                code="unsupported_parameter",
            )
