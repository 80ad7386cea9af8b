"""Names of the folders of runs: short, readable, and different on every file system."""

import collections
import hashlib
import unicodedata
from collections.abc import Sequence
from typing import Any

from kanana_jax.config import ConfigError
from kanana_jax.report import progress

_LONGEST_BYTES = 100  # of an arm's name in a folder name, which file systems limit to 255


def unique(names: Sequence[str]) -> dict[str, str]:
    """A name for each arm's folders: "Muon, Polar Express" becomes muon-polar-express.

    Where that is too long, empty, or another arm's too, a hash of the exact name follows. Raises
    ConfigError where two names look the same.
    """
    seen = collections.Counter(" ".join(_composed(name).split()) for name in names)
    twice = [name for name, count in seen.items() if count > 1]
    if twice:
        raise ConfigError(f"names of arms must differ from each other, got {twice[0]!r} twice")
    slugs = {name: slug(name) for name in names}
    taken = collections.Counter(map(folded, slugs.values()))

    def pick(name: str, text: str) -> str:
        short = text.encode()[:_LONGEST_BYTES].decode(errors="ignore")
        if text and short == text and taken[folded(text)] == 1:
            return text
        digest = hashlib.blake2b(_composed(name).encode(), digest_size=4).hexdigest()
        return f"{short}-{digest}".strip("-")

    return {name: pick(name, text) for name, text in slugs.items()}


def of_value(path: str, value: Any) -> str:
    """A place on an axis: lr0.004, kv-lora-rank64."""
    words = progress.rate(value) if isinstance(value, float) else slug(str(value))
    return f"{path.rpartition('.')[2].replace('_', '-')}{words}"


def slug(name: str) -> str:
    """Lower-case letters, marks and digits of any script, and one "-" for all between them."""
    kept = (c if unicodedata.category(c)[0] in "LMN" else " " for c in _composed(name.casefold()))
    return "-".join("".join(kept).split())


def _composed(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def folded(name: str) -> str:
    """Equal for names that some file system takes for one."""
    return unicodedata.normalize("NFKC", name).casefold()
