"""Request bodies of limited size."""

from typing import Any

from starlette.requests import Request as HttpRequest

from kanana_jax.generate.serve import fields
from kanana_jax.generate.serve.fields import ApiError


async def read_json(http: HttpRequest, most: int) -> Any:
    """The body's JSON; raises ApiError with status 413 where it has more than `most` bytes."""
    body, num_bytes = bytearray(), 0
    async for part in http.stream():
        num_bytes += len(part)
        if num_bytes <= most:  # clients read an answer only after sending all
            body += part
    if num_bytes > most:
        raise ApiError(413, f"expected at most {most} bytes, got {num_bytes}")
    return fields.read_json(bytes(body))
