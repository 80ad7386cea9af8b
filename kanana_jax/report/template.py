"""The report page as a jinja2 template: light and dark, one file, nothing loaded from elsewhere."""

STYLE = """:root {
  --ground: #fbfbfa; --card: #ffffff; --ink: #1f2328; --soft: #5d646c; --line: #e3e4e6;
  --yes: #0a6b4a; --no: #a8360b; --accent: #0072b2;
}
@media (prefers-color-scheme: dark) {
  :root {
    --ground: #16181b; --card: #1e2125; --ink: #e6e7e9; --soft: #a3a9b1; --line: #33373d;
    --yes: #5cc79b; --no: #f08a5d; --accent: #56b4e9;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; padding: 2.5rem 1.25rem 4rem; max-width: 1160px; background: var(--ground);
  color: var(--ink); font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif;
}
h1 { margin: 0; font-size: 1.7rem; letter-spacing: -0.01em; }
h2 { margin: 2.8rem 0 0.6rem; font-size: 1.2rem; }
p { margin: 0.4rem 0; max-width: 80ch; }
.question { color: var(--soft); font-size: 1.08rem; }
.verdict {
  margin: 1.6rem 0 1.2rem; padding: 1.1rem 1.4rem; background: var(--card);
  border: 1px solid var(--line); border-left: 5px solid var(--accent); border-radius: 6px;
}
.headline { font-size: 1.15rem; font-weight: 600; max-width: none; }
.claim { display: grid; grid-template-columns: 3.2rem 1fr; margin-top: 0.9rem; }
.mark { font-weight: 700; color: var(--soft); }
.mark.yes { color: var(--yes); }
.mark.no { color: var(--no); }
.claim p { margin: 0; max-width: none; }
.claim .asked { color: var(--soft); }
.claim ul { margin: 0.2rem 0 0; padding-left: 1.1rem; color: var(--soft); font-size: 0.92rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: 0.94rem; }
th, td { padding: 0.34rem 0.7rem; text-align: right; font-variant-numeric: tabular-nums; }
td { white-space: nowrap; }
th { color: var(--soft); font-weight: 600; vertical-align: bottom; }
th.word, td.word { text-align: left; }
tbody tr.first td { border-top: 1px solid var(--line); }
.dot {
  display: inline-block; width: 0.7rem; height: 0.7rem; margin-right: 0.5rem; border-radius: 50%;
}
td.best { font-weight: 700; }
td.bad { color: var(--no); }
.note { color: var(--soft); font-size: 0.9rem; max-width: none; }
figure { margin: 0 0 2.2rem; }
.zoom { display: block; overflow-x: auto; cursor: zoom-in; }
.zoom input { position: absolute; opacity: 0; }
.zoom input:focus-visible + img { outline: 2px solid var(--accent); }
.zoom input:checked + img { max-width: none; cursor: zoom-out; }
figure img {
  display: block; max-width: 100%; height: auto; padding: 10px; background: #ffffff;
  border: 1px solid var(--line); border-radius: 6px;
}
figcaption { margin-bottom: 0.6rem; }
figcaption strong { display: block; }
figcaption span { color: var(--soft); }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 0.25rem 1.2rem; margin: 0; }
dt { color: var(--soft); }
dd { margin: 0; overflow-wrap: anywhere; }
summary { cursor: pointer; margin-top: 0.8rem; color: var(--accent); }
pre {
  padding: 1rem; overflow-x: auto; background: var(--card); border: 1px solid var(--line);
  border-radius: 6px; font-size: 0.84rem; line-height: 1.4;
}
p.lines { white-space: pre-wrap; }
"""

TEMPLATE = (
    """{% macro shown(table) %}
<div class="scroll"><table>
<thead><tr>
{% for heading, class in table.headings %}<th class="{{ class }}">{{ heading }}</th>{% endfor %}
</tr></thead>
<tbody>
{% for row in table.rows %}
<tr{{ ' class=first' if row.first }}>
{% for text, class, color in row.cells %}
<td class="{{ class }}">
  {%- if color %}<span class="dot" style="background: {{ color }}"></span>{% endif %}
  {{- text | replace('+-', '\u00b1') }}</td>
{% endfor %}
</tr>
{% endfor %}
</tbody>
</table></div>
{% endmacro -%}
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{{ name }}</title>
<style>
"""
    + STYLE
    + """</style>
</head>
<body>
<h1>{{ name }}</h1>
<p class="question">{{ question }}</p>
{% if headline %}
<section class="verdict">
<p class="headline">{{ headline | replace('+-', '\u00b1') }}</p>
{% for claim in claims %}
<div class="claim">
  <div class="mark {{ {True: 'yes', False: 'no'}.get(claim.holds, '') }}">
    {{- {True: 'yes', False: 'no'}.get(claim.holds, '') }}</div>
  <div><p class="asked">{{ claim.question }}</p><p>{{ claim.answer }}</p>
  {% if claim.details %}
  <ul>{% for detail in claim.details %}<li>{{ detail }}</li>{% endfor %}</ul>
  {% endif %}
  </div>
</div>
{% endfor %}
</section>
{% endif %}
{% if table %}
{{ shown(table) }}
<p class="note">{{ note | replace('+-', '\u00b1') }}</p>
{% endif %}
{% for title, text in sections %}
<h2>{{ title }}</h2>
<p class="lines">{{ text }}</p>
{% endfor %}
<h2>Figures</h2>
{% for figure in figures %}
<figure>
<figcaption><strong>{{ figure.title }}</strong><span>{{ figure.reading }}</span></figcaption>
<label class="zoom" title="in full size"><input type="checkbox">
<img src="{{ figure.data_uri }}" alt="{{ figure.title }}" width="{{ figure.width_px }}"></label>
</figure>
{% endfor %}
{% if numbers %}
<h2>All numbers</h2>
{{ shown(numbers) }}
{% endif %}
<h2>What was run</h2>
<dl>{% for label, value in facts %}<dt>{{ label }}</dt><dd>{{ value }}</dd>{% endfor %}</dl>
<details><summary>Resolved configuration</summary><pre>{{ config }}</pre></details>
</body>
</html>
"""
)
