"""Documentation in Debian packages: which packages, where in them, and how they are read.

apt-get download PACKAGE, dpkg-deb -x    in a temporary folder; nothing is installed
"""

import gzip
import pathlib
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from kanana_jax.data.errors import DataError, first_line
from kanana_jax.data.fetch_corpora import paragraphs


class Source(NamedTuple):
    """Packages and their files by language; `{}` in `files` is the language's name there."""

    licence: str  # of its text, in short; each package's own file gives it in full
    packages: Mapping[str, Sequence[str]]
    files: str
    read: Callable[[str], list[str]]
    names: Mapping[str, str] = {}  # where they differ from the keys of `packages`


def _one_each(name: str, **suffixes: str) -> dict[str, tuple[str, ...]]:
    return {language: (f"{name}-{suffix or language}",) for language, suffix in suffixes.items()}


_ALL = ("en", "ko", "ja", "zh", "vi", "de", "fr", "es", "ru")
SOURCES = {
    "libreoffice-help": Source(
        "MPL-2.0",
        _one_each("libreoffice-help", en="en-us", ko="", ja="", zh="zh-cn", vi="", de="", fr="",
                  es="", ru=""),
        "usr/share/libreoffice/help/*/text/**/*.html",
        paragraphs.of_markup,
    ),
    "gnome-docs": Source(
        "CC-BY-SA-3.0",
        dict.fromkeys(_ALL, ("gnome-user-docs", "gnome-devel-docs")),
        "usr/share/help/{}/**/*.page",
        paragraphs.of_markup,
        {"en": "C", "zh": "zh_CN"},
    ),
    "installation-guide": Source(
        "GPL-2",
        dict.fromkeys(_ALL, ("installation-guide-amd64",)),
        "usr/share/doc/installation-guide-amd64/{}/*.html",
        paragraphs.of_markup,
        {"zh": "zh_CN"},
    ),
    "debian-reference": Source(
        "GPL-2+",
        _one_each("debian-reference", en="", ja="", zh="zh-cn", de="", fr="", es=""),
        "usr/share/debian-reference/*.html",
        paragraphs.of_markup,
    ),
    "manpages": Source(
        "per page",
        {"en": ("manpages", "manpages-dev")}
        | _one_each("manpages", ja="", zh="", de="", fr="", es="", ru=""),
        "usr/share/man/**/man[1-8]/*.gz",
        paragraphs.of_manual,
    ),
}  # fmt: skip


def expect_apt() -> None:
    """Raises DataError where the commands of Debian are not installed."""
    missing = [name for name in ("apt-get", "dpkg-deb") if not shutil.which(name)]
    if missing:
        raise DataError(
            f"expected {' and '.join(missing)}, which is not here; corpora are made on Debian or "
            "Ubuntu, for example in a container: run the command there."
        )


def unpacked(package: str, folder: pathlib.Path) -> tuple[pathlib.Path, str]:
    """Downloads a package and unpacks it below `folder`, once; its folder and its version."""
    root = folder / package
    if not root.exists():
        _run(["apt-get", "-qq", "download", package], folder, package)
    (archive,) = folder.glob(f"{package}_*.deb")
    if not root.exists():
        _run(["dpkg-deb", "-x", archive.name, package], folder, package)
    return root, _run(["dpkg-deb", "-f", archive.name, "Version"], folder, package).strip()


def copyright_of(package: str, folder: pathlib.Path) -> str:
    """What a package says of its licence; some refer to the package that they come with."""
    root, _ = unpacked(package, folder)
    place = root / "usr/share/doc" / package
    if place.is_symlink():
        return copyright_of(place.readlink().name, folder)
    return (place / "copyright").read_text(encoding="utf-8", errors="replace")


def documents(source: Source, language: str, root: pathlib.Path) -> Iterator[list[str]]:
    """The paragraphs of each file of a language, in the order of the files' names."""
    pattern = source.files.format(source.names.get(language, language))
    for path in sorted(root.glob(pattern)):
        if not path.is_file():  # a link into a package that is not here
            continue
        content = path.read_bytes()
        content = gzip.decompress(content) if path.suffix == ".gz" else content
        yield source.read(content.decode("utf-8", errors="ignore"))


def _run(command: list[str], folder: pathlib.Path, package: str) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.startswith("E:")]
        reason = first_line(RuntimeError(" ".join(lines) or done.stderr))
        raise DataError(
            f"{command[0]} cannot get {package} ({reason}); run apt-get update, see that "
            "the mirror of this system is reachable, or leave the source out."
        )
    return done.stdout
