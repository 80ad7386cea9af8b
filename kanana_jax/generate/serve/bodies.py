"""Bodies of requests within a limit, and what is answered where something fails."""

from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response

from kanana_jax.generate.serve import fields, streaming
from kanana_jax.generate.serve.fields import ApiError


async def read_json(http: HttpRequest, most: int) -> Any:
    """The body's JSON; raises ApiError with status 413 where it has more than `most` bytes."""
    body, num_bytes = bytearray(), 0
    async for part in http.stream():
        num_bytes += len(part)
        if num_bytes <= most:  # clients hear an answer when all is sent
            body += part
    if num_bytes > most:
        raise ApiError(413, f"expected at most {most} bytes, got {num_bytes}")
    return fields.read_json(bytes(body))


async def _api_error(http: HttpRequest, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    headers = {"Retry-After": "1"} if error.status == 429 else None
    return JSONResponse(error.body, status_code=error.status, headers=headers)


async def _client_is_gone(http: HttpRequest, error: Exception) -> Response:
    return Response(status_code=streaming.CLIENT_IS_GONE)


async def _http_error(http: HttpRequest, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    shown = ApiError(error.status_code, f"{http.method} {http.url.path}: {error.detail}")
    return JSONResponse(shown.body, status_code=error.status_code, headers=error.headers)


async def _our_fault(http: HttpRequest, error: Exception) -> Response:
    shown = ApiError(500, f"a fault of the server: {error!r}", kind="server_error")
    return JSONResponse(shown.body, status_code=500)


HANDLERS: dict[Any, Any] = {
    ApiError: _api_error,
    ClientDisconnect: _client_is_gone,
    HTTPException: _http_error,
    Exception: _our_fault,
}
