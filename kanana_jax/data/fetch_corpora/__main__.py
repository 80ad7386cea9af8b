"""Makes corpora of documentation: python -m kanana_jax.data.fetch_corpora --out=DIR --source=NAME.

    --list                                           sources, their languages and licences
    --source=gnome-docs --source=manpages --language=ko,ja    several at once

Packages come from the Debian mirror that this system is set up with; nothing is installed.
DIR/NAME-LANGUAGE.jsonl has a line {"text": ...} for each page; no paragraph of a language appears
twice. NAME-LANGUAGE.licences.json beside it has packages, versions and licences: it goes with
the text wherever you take that. Exit code 2: a source cannot be had, or DIR cannot be written.
"""

import argparse
import json
import pathlib
import tempfile
from collections.abc import Iterator

from kanana_jax import errors
from kanana_jax.config import ConfigError, paths
from kanana_jax.data import jsonl, whole_files
from kanana_jax.data.fetch_corpora import debian, paragraphs

_PROGRAM = "kanana_jax.data.fetch_corpora"
# Their script does not show untranslated text, so paragraphs also in English are left out.
_LATIN = ("vi", "de", "fr", "es")


def main(argv: list[str] | None = None) -> None:
    arguments = _parser().parse_args(argv)
    with errors.reported(_PROGRAM):
        if arguments.list:
            _list()
            return
        wanted = _wanted(arguments)
        debian.expect_apt()
        folder = paths.local(arguments.out, "--out")
        paths.expect_folder(folder, "--out")
        with tempfile.TemporaryDirectory() as temporary:
            fetch(wanted, folder, pathlib.Path(temporary))


def fetch(wanted: list[tuple[str, str]], folder: pathlib.Path, temporary: pathlib.Path) -> None:
    """Writes the corpus of each pair of a source and a language, and where it is from."""
    seen: dict[str, set[str]] = {}
    for name, language in wanted:
        source, known = debian.SOURCES[name], seen.setdefault(language, set())
        if language in _LATIN:
            known |= {text for page in _pages(name, "en", temporary) for text in page}
        texts = (
            "\n\n".join(found)
            for page in _pages(name, language, temporary)
            if (found := list(paragraphs.kept(page, language, known)))
        )
        path = folder / f"{name}-{language}.jsonl"
        num_bytes = jsonl.write(path, texts)
        told = [_told(package, source.licence, temporary) for package in source.packages[language]]
        with whole_files.written(path.with_suffix(".licences.json")) as file:
            json.dump(told, file, indent=1)
        print(f"{path}: {num_bytes / 1e6:.2f} MB of text", flush=True)


def _told(package: str, licence: str, temporary: pathlib.Path) -> dict[str, str]:
    """Where text is from."""
    return {
        "package": package,
        "version": debian.unpacked(package, temporary)[1],
        "licence": licence,
        "copyright": debian.copyright_of(package, temporary),
    }


def _pages(name: str, language: str, temporary: pathlib.Path) -> Iterator[list[str]]:
    source = debian.SOURCES[name]
    for package in source.packages[language]:
        root, _ = debian.unpacked(package, temporary)
        yield from debian.documents(source, language, root)


def _wanted(arguments: argparse.Namespace) -> list[tuple[str, str]]:
    """Pairs of a source and a language; ConfigError unless all are known."""
    if not arguments.source or not arguments.out:
        raise ConfigError("expected --out and one --source or more, got none; --list shows them")
    languages = arguments.language.split(",")
    pairs = [(name, language) for name in arguments.source for language in languages]
    for name, language in pairs:
        if name not in debian.SOURCES:
            raise ConfigError(f"--source must be of {', '.join(debian.SOURCES)}; got {name!r}")
        if language not in debian.SOURCES[name].packages:
            known = ",".join(debian.SOURCES[name].packages)
            raise ConfigError(f"{name} has --language={known}; got {language!r}")
    return list(dict.fromkeys(pairs))


def _list() -> None:
    for name, source in debian.SOURCES.items():
        print(f"{name:20}{','.join(source.packages):28}{source.licence}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"python -m {_PROGRAM}", allow_abbrev=False)
    parser.add_argument("--out", help="a folder")
    parser.add_argument("--source", action="append", default=[], help="may be repeated")
    parser.add_argument("--language", default="en,ko", help="default: en,ko")
    parser.add_argument("--list", action="store_true", help="show sources, and end")
    return parser


if __name__ == "__main__":
    main()
