"""A small S3 and Cloud Storage server on loopback, with faults that tests switch on and off.

    /<bucket>/<key>, ?list-type=2                          S3, bucket in the path
    /storage/v1/b/<bucket>/o, /upload/storage/v1/b/...     Cloud Storage, JSON

`fault` is what every request gets: an HTTP status, or "hang" for as long as it is that.
"""

import contextlib
import functools
import hashlib
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

BUCKET = "bucket"
KEYS_PER_PAGE = 5  # so that listings have pages


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.objects: dict[str, bytes] = {}
        self.fault: int | str | None = None
        # (method, key) -> the fault of this request alone; it may also set the one of all.
        self.before = lambda method, key: None

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"

    def environment(self):
        """The variables by which TensorStore finds it."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "TENSORSTORE_GCS_HTTP_URL": self.url,
            "GOOGLE_AUTH_TOKEN_FOR_TESTING": "token",
        }


@contextlib.contextmanager
def served():
    """The one server of this process, empty and without faults."""
    server = _start()
    server.objects.clear()
    try:
        yield server
    finally:
        server.fault, server.before = None, lambda method, key: None


@functools.cache
def _start():
    # TensorStore reads once where Cloud Storage is, so all tests of a process share it.
    server = Server()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else every answer waits 40 ms
    server: Server

    def log_message(self, *_):
        pass

    def _serve(self):
        url = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        parts = url.path.removeprefix("/upload").strip("/").split("/")
        is_gcs = parts[0] == "storage"
        bucket, rest = (parts[3], parts[5:]) if is_gcs else (parts[0], parts[1:])
        key = unquote("/".join(rest)) or query.get("name", "")
        fault = self.server.before(self.command, key) or self.server.fault
        while self.server.fault == "hang":
            time.sleep(0.02)
        if bucket != BUCKET:
            fault = 404
        if isinstance(fault, int):
            told = {"error": {"code": fault, "message": "a fault of the test"}}
            xml = f"<Error><Code>{'NoSuchBucket' if fault == 404 else 'Fault'}</Code></Error>"
            self._answer(fault, (json.dumps(told) if is_gcs else xml).encode())
        elif is_gcs:
            self._gcs(key, query, body)
        else:
            self._s3(key, query, body)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _serve

    def _s3(self, key, query, body):
        held = self.server.objects
        if not key and self.command == "GET":
            prefix, begin = query.get("prefix", ""), query.get("continuation-token", "")
            names, following = self._page(prefix, begin)
            listed = "".join(f"<Contents><Key>{escape(name)}</Key></Contents>" for name in names)
            more = f"<NextContinuationToken>{following}</NextContinuationToken>"
            self._answer(
                200,
                "<ListBucketResult>"
                f"<KeyCount>{len(names)}</KeyCount><IsTruncated>{str(bool(following)).lower()}"
                f"</IsTruncated>{listed}{more if following else ''}</ListBucketResult>".encode(),
            )
        elif self.command == "PUT":
            if self.headers.get("if-none-match") == "*" and key in held:
                return self._answer(412)
            held[key] = body
            self._answer(200, etag=_hash(body))
        elif self.command == "DELETE":
            held.pop(key, None)
            self._answer(204)
        elif key and key not in held:
            self._answer(404)
        else:
            content = held.get(key, b"")
            self._answer(200, content, etag=_hash(content), x_amz_bucket_region="us-east-1")

    def _gcs(self, key, query, body):
        held = self.server.objects
        if not key:
            names, following = self._page("", query.get("pageToken", query.get("startOffset", "")))
            end = query.get("endOffset")
            items = [_metadata(name, held[name]) for name in names if not end or name < end]
            is_last = len(items) < len(names) or not following
            page = {"items": items} | ({} if is_last else {"nextPageToken": following})
            self._answer(200, json.dumps(page).encode())
        elif self.command == "POST":
            if query.get("ifGenerationMatch") == "0" and key in held:
                return self._answer(412)
            held[key] = body
            self._answer(200, json.dumps(_metadata(key, body)).encode())
        elif key not in held:
            self._answer(404)
        elif self.command == "DELETE":
            held.pop(key, None)
            self._answer(204)
        else:
            self._answer(200, held[key], x_goog_generation=_generation(held[key]))

    def _page(self, prefix, begin):
        """Some names in order from `begin` on, and the one that the next page begins with."""
        names = sorted(n for n in list(self.server.objects) if n.startswith(prefix) and n >= begin)
        return names[:KEYS_PER_PAGE], "".join(names[KEYS_PER_PAGE : KEYS_PER_PAGE + 1])

    def _answer(self, status, body=b"", **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        if status != 204:
            self.send_header("content-length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _hash(content):
    return f'"{hashlib.md5(content).hexdigest()}"'


def _generation(content):
    return str(int(hashlib.md5(content).hexdigest()[:12], 16) + 1)


def _metadata(name, content):
    return {"name": name, "generation": _generation(content), "size": str(len(content))}
