"""Who may ask: an API key, and web pages of other origins."""

import secrets
from collections.abc import Sequence

from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from kanana_jax.generate.serve.fields import ApiError

_OPEN = "/health"  # for supervisors, which have no key


def middleware(api_key: str | None, origins: Sequence[str]) -> list[Middleware]:
    """Origins first: a browser asks for them without a key, and shows no refusal without them."""
    found = []
    if origins:
        found.append(
            Middleware(
                CORSMiddleware,
                allow_origins=[*origins],
                allow_methods=["GET", "POST"],
                allow_headers=["*"],
            )
        )
    if api_key is not None:
        found.append(Middleware(_WithKey, api_key))
    return found


class _WithKey:
    """An application that answers 401 unless the key is in the header, as a bearer token."""

    def __init__(self, app: ASGIApp, api_key: str):
        self._app, self._wanted = app, f"Bearer {api_key}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] == _OPEN:
            await self._app(scope, receive, send)
            return
        given = dict(scope["headers"]).get(b"authorization", b"")
        if secrets.compare_digest(given, self._wanted):
            await self._app(scope, receive, send)
            return
        error = ApiError(
            401,
            "expected this server's API key as Authorization: Bearer KEY",
            code="invalid_api_key",
        )
        refusal = JSONResponse(error.body, 401, headers={"WWW-Authenticate": "Bearer"})
        await refusal(scope, receive, send)
