"""Names of files and folders as users write them, by one rule for settings and flags.

~/x, ~user/x                          in that home folder
file:///x, file:/x                    the local x, with %20 and the like decoded
scheme://x, scheme::scheme://x        remote, where the setting can be that; kept as it is
anything else                         a local name, kept as it is
"""

import errno
import os
import re
import tempfile
import unicodedata
import urllib.parse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kanana_jax.config.fields import ConfigError, shown

_MAX_NAME_BYTES = 255  # of one file or folder, on every common file system
_MAX_PATH_BYTES = 3000  # of 4096 on Linux; our own names come below it
_MAX_FOLDER_NAME_BYTES = 200  # temporary names add something to it
# pathlib makes gs:/bucket of gs://bucket.
_URL = re.compile(r"[a-z][a-z0-9+.-]*:[:/]", re.IGNORECASE)
_FILE_URL = re.compile(r"file:(//(localhost)?)?(/(?!/).*)", re.IGNORECASE | re.DOTALL)
_UNPRINTABLE = ("Cc", "Cs", "Zl", "Zp")  # NUL, line breaks, bytes that are not UTF-8

# Errors that say that a disk takes nothing, whatever the name.
DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO}


@dataclass(frozen=True)
class Location:
    """The constraint of a setting that names files.

    `schemes` are those of remote places that it can name, None where the setting's reader decides;
    `advice` is for users who name another. An empty name is refused unless it is the default.
    """

    schemes: Sequence[str] | None = ()
    may_be_empty: bool = False
    advice: str = "copy or mount it, or name another place"

    def __call__(self, text: str, name: str) -> str:
        if not text and self.may_be_empty:
            return text
        if not text.strip():
            raise ConfigError(
                f"{name} is empty; name a file or folder, or leave it out for its default"
            )
        path = text
        if is_remote(text) and not text.lower().startswith("file:"):
            self._expect_known(text, name)
        else:
            path = _local(text, name)
        if not _is_plain(path):
            raise ConfigError(f"{name} must be UTF-8 without control characters, got {shown(text)}")
        _expect_short(path, name)
        return path

    def _expect_known(self, text: str, name: str) -> None:
        if self.schemes is None:
            return
        scheme, separator, rest = text.partition("://")
        if scheme in self.schemes and separator and rest.partition("/")[0]:
            return
        kinds = "".join(f", {one}://bucket/prefix" for one in self.schemes)
        raise ConfigError(f"{name} must be a local path{kinds}, got {shown(text)}; {self.advice}")


def local(text: str | os.PathLike[str], name: str, where: Location = Location()) -> Path:
    """The local path that the flag or argument `name` gives; raises ConfigError."""
    return Path(where(os.fspath(text), name))


def workdir(text: str | os.PathLike[str]) -> Path:
    """`local` for the folder of a run."""
    advice = "only checkpoints can lie in an object store: set train.checkpoint_dir"
    return local(text, "--workdir", Location(advice=advice))


def folder_name(text: str, name: str) -> str:
    """The constraint of a setting that becomes the name of one folder."""
    is_name = _is_plain(text) and text.strip(" .") and not {"/", "\\"} & set(text)
    if not is_name or len(text.encode()) > _MAX_FOLDER_NAME_BYTES:
        raise ConfigError(
            f"{name} must be the name of a folder, without / and \\ and control characters, of at "
            f"most {_MAX_FOLDER_NAME_BYTES} bytes, got {shown(text)}"
        )
    return text


def is_remote(path: str) -> bool:
    """Whether a path that `Location` returned is remote."""
    return bool(_URL.match(path))


def expect_folder(folder: Path, name: str) -> None:
    """Raises ConfigError unless `folder` can be written to, made first if need be.

    For a disk that takes nothing the OSError itself is raised, one of DISK_ERRORS.
    """
    above = (one for one in (folder, *folder.parents) if os.path.lexists(one))
    nearest = next(above, Path())
    try:
        before = os.stat(nearest)
        tempfile.TemporaryDirectory(prefix=".", dir=nearest).cleanup()
        os.utime(nearest, ns=(before.st_atime_ns, before.st_mtime_ns))  # as if it had not been
    except OSError as error:
        if error.errno in DISK_ERRORS:
            error.filename = str(folder)
            raise
        raise ConfigError(
            f"{name} must be a folder that can be written, got {shown(str(folder))} "
            f"({error.strerror}); choose another"
        ) from error


def _local(text: str, name: str) -> str:
    if is_remote(text):
        url = _FILE_URL.fullmatch(text)
        if url is None:
            raise ConfigError(
                f"{name} must be a local path, as a URL file:///folder/file, got {shown(text)}"
            )
        return urllib.parse.unquote(url[3], errors="surrogateescape")
    if not text.startswith("~"):
        return text
    path = os.path.expanduser(text)
    if path == text:
        raise ConfigError(
            f"{name} begins with the home of a user who is not known here, got {shown(text)}; "
            "write ./~ for a folder of that name"
        )
    return path


def _is_plain(text: str) -> bool:
    return not any(unicodedata.category(char) in _UNPRINTABLE for char in text)


def _expect_short(path: str, name: str) -> None:
    longest = max(len(part.encode()) for part in path.split("/"))
    if longest > _MAX_NAME_BYTES or len(path.encode()) > _MAX_PATH_BYTES:
        raise ConfigError(
            f"{name} must have at most {_MAX_PATH_BYTES} bytes, {_MAX_NAME_BYTES} from / to /, got "
            f"{len(path.encode())} and {longest}: {shown(path)}"
        )
