"""Named bytes and arrays below a folder, gs://bucket/prefix or s3://bucket/prefix, by TensorStore.

Credentials come from where the stores' own tools take them; AWS_ENDPOINT_URL names another server
that speaks S3.
"""

import functools
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tensorstore as ts

from kanana_jax.checkpoint.errors import first_line
from kanana_jax.errors import UserError

# How long an object store may take for one object, retries and those queued before it included.
_LIMIT_S = 300.0
# After these the store counts as out of reach: 15 s in all.
_RETRIES = {"max_retries": 6, "initial_delay": "0.5s", "max_delay": "8s"}
# How TensorStore's messages begin where the content is at fault, not the way to it.
_OF_CONTENT = ("NOT_FOUND", "INVALID_ARGUMENT", "FAILED_PRECONDITION", "DATA_LOSS", "OUT_OF_RANGE")


_DRIVERS = {"gs": "gcs", "s3": "s3"}


class UnreachableError(UserError, RuntimeError):
    """An object store that does not answer or refuses; this says nothing about what it holds."""


class Objects:
    """What lies below one folder or prefix, including arrays, which `spec` is for."""

    def __init__(self, url: str, context: ts.Context, spec: dict[str, Any], limit_s: float | None):
        self._url, self.context, self._spec, self._limit_s = url, context, spec, limit_s

    def __str__(self) -> str:
        return self._url

    def below(self, path: str) -> "Objects":
        spec = self.spec(f"{path}/")
        return Objects(f"{self._url}/{path}", self.context, spec, self._limit_s)

    def spec(self, path: str) -> dict[str, Any]:
        """TensorStore's kvstore for what begins with `path`."""
        return self._spec | {"path": self._spec["path"] + path}

    def read(self, name: str) -> bytes:
        found = self.wait(self._store().read(name))
        if found.state != "value":
            raise FileNotFoundError(f"{self._url}/{name} does not exist")
        return found.value

    def write(self, name: str, content: bytes) -> None:
        """Leaves all of `content` or what was there before."""
        self._must(self._store().write(name, content))

    def create(self, name: str, content: bytes) -> bool:
        """Writes it if no one has; returns whether it did."""
        before = self.wait(self._store().read(name))
        if before.state == "value":
            return False
        stamp = self._must(self._store().write(name, content, if_equal=before.stamp.generation))
        return bool(stamp.generation)

    def delete(self, name: str) -> None:
        self._must(self._store().write(name, None))

    def delete_all(self, path: str) -> None:
        self._must(self._store().delete_range(_starting_with(f"{path}/")))

    def names(self, path: str = "") -> list[str]:
        """The names that begin with `path`, without it."""
        listed = self._must(self._store().list(_starting_with(path)))
        return [name.decode().removeprefix(path) for name in listed]

    def wait(self, future: Any) -> Any:
        """What TensorStore answers; raises UnreachableError where an object store does not."""
        try:
            return future.result(timeout=self._limit_s)
        except TimeoutError:
            future.cancel()
            raise UnreachableError(
                f"{self._url} has not answered for {self._limit_s:g} s"
            ) from None
        except ValueError as error:
            if self._limit_s is None or str(error).startswith(_OF_CONTENT):
                raise
            raise UnreachableError(f"{self._url}: {first_line(error)}") from error

    def _must(self, future: Any) -> Any:
        """`wait` for calls that need no object to exist: only the bucket can be missing."""
        try:
            return self.wait(future)
        except ValueError as error:
            if self._limit_s is None:
                raise
            raise UnreachableError(f"{self._url}: {first_line(error)}") from error

    def _store(self) -> ts.KvStore:
        return self.wait(ts.KvStore.open(self._spec, context=self.context))


def is_remote(where: Path | str) -> bool:
    return "://" in str(where)


def open_objects(where: Path | str, environ: Mapping[str, str] = os.environ) -> Objects:
    """Opens a folder or URL, neither of which needs to exist; reads nothing yet."""
    if not is_remote(where):
        folder = str(Path(where).absolute())
        return Objects(folder, ts.Context(), {"driver": "file", "path": f"{folder}/"}, None)
    scheme, _, rest = str(where).partition("://")
    bucket, _, path = rest.partition("/")
    settings = _s3_settings(environ) if scheme == "s3" else {}
    spec = {"driver": _DRIVERS[scheme], "bucket": bucket} | settings
    context, _ = _open_bucket(json.dumps(spec))
    spec["path"] = f"{path}/" if path else ""
    return Objects(str(where), context, spec, _LIMIT_S)


@functools.cache
def _open_bucket(spec: str) -> tuple[ts.Context, ts.KvStore]:
    """Opens a bucket once and for all.

    An S3 bucket that is opened again after a failed listing never answers (TensorStore 0.1.86):
    looking up its region hangs.
    """
    context = ts.Context({f"{json.loads(spec)['driver']}_request_retries": _RETRIES})
    return context, ts.KvStore.open(json.loads(spec), context=context).result()


def _s3_settings(environ: Mapping[str, str]) -> dict[str, Any]:
    """What TensorStore does not read from the environment itself, or only after other places."""
    settings: dict[str, Any] = {}
    endpoint = environ.get("AWS_ENDPOINT_URL_S3") or environ.get("AWS_ENDPOINT_URL")
    region = environ.get("AWS_REGION") or environ.get("AWS_DEFAULT_REGION")
    if endpoint:
        settings["endpoint"] = endpoint
        if region:
            settings["aws_region"] = region
    if "AWS_ACCESS_KEY_ID" in environ:
        settings["aws_credentials"] = {"type": "environment"}
    return settings


def _starting_with(path: str) -> ts.KvStore.KeyRange:
    # "\xff" would not be UTF-8; no name of ours has anything above "~".
    return ts.KvStore.KeyRange(path, f"{path}\x7f") if path else ts.KvStore.KeyRange()
