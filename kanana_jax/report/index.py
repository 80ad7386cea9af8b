"""One page over the reports of several workdirs: python -m kanana_jax.report.index runs.

Every folder of `runs`, at any depth, that has a report is shown with its question, its answer, its
picture and a link. A report inside another one, such as a pipeline stage's, is left to the outer
one. The page is `index.html` in the folder; links and pictures are relative to it, so the folder
can be moved or published. Exit code 2: there is no report.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kanana_jax.report.template import STYLE

NAME = "index.html"
_PAGE = (
    """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{{ title }}</title>
<style>
"""
    + STYLE
    + """
.gallery { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 26rem), 1fr)); }
.gallery { gap: 1.4rem; margin-top: 1.6rem; }
.gallery article {
  padding: 1.1rem 1.2rem; background: var(--card); border: 1px solid var(--line);
  border-radius: 6px; overflow: hidden;
}
.gallery h2 { margin: 0; }
.gallery a { color: var(--accent); text-decoration: none; }
.gallery img { width: 100%; margin-top: 0.8rem; background: #ffffff; border-radius: 4px; }
</style>
</head>
<body>
<h1>{{ title }}</h1>
<p class="question">{{ reports | length }} report{{ '' if reports | length == 1 else 's' }}</p>
<div class="gallery">
{% for one in reports %}
<article>
<h2><a href="{{ one.link }}">{{ one.name }}</a></h2>
{% if one.place != one.name %}<p class="note">{{ one.place }}</p>{% endif %}
<p class="question">{{ one.question }}</p>
<p>{{ one.headline | replace('+-', '\u00b1') }}</p>
{% if one.claims %}
<p class="note">{{ one.claims | selectattr('holds', 'true') | list | length }} yes,
{{ one.claims | selectattr('holds', 'false') | list | length }} no,
{{ one.claims | selectattr('holds', 'none') | list | length }} not resolved</p>
{% endif %}
{% if one.picture %}
<a href="{{ one.link }}"><img src="{{ one.picture }}" alt="{{ one.name }}" loading="lazy"></a>
{% endif %}
</article>
{% endfor %}
</div>
</body>
</html>
"""
)


def found(folder: Path) -> list[dict[str, Any]]:
    """The summary of each report of `folder`, with link and picture relative to it, by path."""
    made, inside = [], []
    for path in sorted(folder.rglob("report.json"), key=lambda path: (len(path.parts), path)):
        home = path.parent
        if any(outer in home.parents for outer in inside) or not (home / "report.html").exists():
            continue
        inside.append(home)
        summary = json.loads(path.read_text(encoding="utf-8"))
        place = home.relative_to(folder)
        picture = summary["picture"]
        made.append(
            summary
            | {
                "place": place.as_posix(),
                "link": (place / "report.html").as_posix(),
                "picture": (place / picture).as_posix() if picture else "",
            }
        )
    return sorted(made, key=lambda one: one["link"])


def write(folder: Path) -> Path:
    """Writes the page; ValueError where there is nothing to show."""
    import jinja2

    reports = found(folder)
    if not reports:
        raise ValueError(
            f"expected a folder with reports, such as runs, got {folder}; an experiment writes "
            "report.html and report.json into its workdir when it ends"
        )
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    text = environment.from_string(_PAGE).render(
        title=f"Reports of {folder.absolute().name}", reports=reports
    )
    path = folder / NAME
    path.write_text(text, encoding="utf-8")
    return path


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m kanana_jax.report.index",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", nargs="?", default="runs", help="by default runs")
    folder = Path(parser.parse_args(arguments).folder)
    try:
        print(f"Reports: {write(folder)}")
    except (ValueError, OSError) as error:
        print(f"kanana_jax: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
