"""What a client is told when a request ends in an exception."""

import contextlib
from collections.abc import Iterator
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response

from kanana_jax.generate.requests import RequestError
from kanana_jax.generate.serve import streaming
from kanana_jax.generate.serve.fields import ApiError
from kanana_jax.generate.serve.worker import QueueFullError, StoppedError


@contextlib.contextmanager
def of_opening(param: str) -> Iterator[None]:
    """For giving a worker requests: ApiError with status 400 for them, 429 or 503 for it."""
    try:
        yield
    except RequestError as error:
        raise ApiError(400, str(error), param=param) from None
    except QueueFullError as error:
        raise ApiError(429, str(error), kind="rate_limit_error", code="queue_full") from None
    except StoppedError as error:
        raise ApiError(503, str(error), kind="server_error") from None


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
