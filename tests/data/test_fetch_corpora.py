"""Corpora of documentation, from pages written here and commands that stand in for Debian's."""

import gzip
import json
import os
import stat

import pytest

from kanana_jax.data.fetch_corpora import __main__ as command
from kanana_jax.data.fetch_corpora import debian, paragraphs

PAGE = """<!DOCTYPE html><html><head><title>Left out</title><style>p { }</style></head><body>
<header><p>Menu</p></header><nav><ul><li>Also menu</li></ul></nav>
<h1>A heading</h1><p class="x">One <b>para</b>graph &amp;
  more of it.<br>After the break.</p><pre>int main();</pre>
<ul><li><p>An item</p></li><li>Another <img src="x.png">item</li></ul><script>let p;</script>
<aside><p>Index</p></aside>Nearly<p>The end</p></body></html>"""

MALLARD = """<?xml version="1.0" encoding="utf-8"?>
<page xmlns="http://projectmallard.org/1.0/"><info><link type="guide" xref="a"/>
<credit><name>Somebody</name></credit><desc>Left out</desc></info>
<title>사용자 추가</title>
<p>새 <gui>사용자</gui>를 더합니다.</p><steps><item><p>엽니다.</p></item></steps>
<code>sudo</code></page>"""

MANUAL = r""".\" A comment
.TH LS 1 "May" "GNU"
.SH NAME
ls \- list directory contents
.SH DESCRIPTION
List information
about the \fIFILE\fPs \(aqhere\(aq.
.BR ls (1)
is a command.
.TP
\fB\-a\fR, \fB\-\-all\fR
do not ignore entries
.nf
code here
.fi
.PP
A file is
.B bold
too.
"""


def test_paragraphs_of_a_page_are_without_menus_and_code():
    assert paragraphs.of_markup(PAGE) == [
        "A heading",
        "One paragraph & more of it.",
        "After the break.",
        "An item",
        "Another item",
        "Nearly",
        "The end",
    ]
    assert paragraphs.of_markup(MALLARD) == ["사용자 추가", "새 사용자를 더합니다.", "엽니다."]


def test_paragraphs_of_a_manual_are_without_macros():
    assert paragraphs.of_manual(MANUAL) == [
        "ls - list directory contents",
        "List information about the FILEs 'here'. ls(1) is a command.",
        "-a, --all do not ignore entries",
        "A file is bold too.",
    ]
    assert paragraphs.of_manual(".Dd May 1\n.Sh NAME\nls does\n.Nm\nthings\n") == []


@pytest.mark.parametrize(
    ("text", "languages"),
    [
        ("A long enough sentence of the English kind.", {"en", "de"}),
        ("Too short a sentence.", set()),
        ("새 사용자를 더하려면 여기를 누릅니다.", {"ko"}),
        ("사용자 추가", set()),
        ("Press the button 열기 of that window to go on.", {"en", "de"}),
        ("Shift+F5를 눌러 커서를 저장된 위치로 옮깁니다.", {"ko"}),
        ("\u30d5\u30a1\u30a4\u30eb\u3092\u958b\u3044\u3066\u8aad\u307f\u307e\u3059\u3002", {"ja"}),
        ("\u6253\u5f00\u6587\u4ef6\u5e76\u4e14\u8bfb\u53d6\u5b83\u7684\u5185\u5bb9\u3002", {"zh"}),
        ("\u041e\u0442\u043a\u0440\u043e\u0439\u0442\u0435 " * 4, {"ru"}),
        ("1234567890 1234567890 1234567890 1234567890", set()),
    ],
)
def test_a_paragraph_is_kept_in_its_own_language(text, languages):
    every = ("en", "de", "ko", "ja", "zh", "th", "ru")
    assert {one for one in every if list(paragraphs.kept([text], one, set()))} == languages


def test_a_paragraph_is_kept_once():
    one, two = "An English sentence that is long enough.", "Another sentence that is long enough."
    seen = {two}
    assert list(paragraphs.kept([one, two, one], "en", seen)) == [one]
    assert list(paragraphs.kept([one], "en", seen)) == []


APT = """#!/bin/sh
[ -d "{packages}/$3" ] || {{ echo "W: a warning
E: Unable to locate package $3" >&2; exit 100; }}
touch "$3_1%3a2.3_all.deb"
"""
DPKG = """#!/bin/sh
if [ "$1" = -f ]; then echo 1:2.3; else cp -a "{packages}/$3" "$3"; fi
"""


@pytest.fixture
def packages(tmp_path, monkeypatch):
    """A folder of packages, which commands that stand in for Debian's download and unpack."""
    folder, commands = tmp_path / "packages", tmp_path / "bin"
    commands.mkdir()
    for name, script in (("apt-get", APT), ("dpkg-deb", DPKG)):
        (commands / name).write_text(script.format(packages=folder))
        (commands / name).chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", f"{commands}:{os.environ['PATH']}")

    def add(package, files, copyright="GPL"):
        texts = files | {f"usr/share/doc/{package}/copyright": copyright}
        for name, text in texts.items():
            path = folder / package / name
            path.parent.mkdir(parents=True, exist_ok=True)
            content = text.encode()
            path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
        return folder / package

    return add


def _manual(*texts):
    return ".TH X 1\n.SH NAME\n" + "\n.PP\n".join(texts)


SAME, ENGLISH, GERMAN, LAST = (
    "This paragraph was never translated by anybody.",
    "This one was, and it is an English sentence.",
    "Dieser Absatz ist ein deutscher Satz mit vielen Worten.",
    "Und das hier ist der letzte Absatz der zweiten Seite.",
)


def test_a_corpus_has_every_paragraph_once_and_says_where_it_is_from(packages, tmp_path, capsys):
    packages("manpages", {"usr/share/man/man1/a.1.gz": _manual(SAME, ENGLISH)}, "A notice")
    developers = packages("manpages-dev", {"usr/share/man/man2/b.2.gz": _manual(ENGLISH, "short")})
    notice = developers / "usr/share/doc/manpages-dev"
    (notice / "copyright").unlink()
    notice.rmdir()
    notice.symlink_to("manpages")
    german = packages(
        "manpages-de",
        {
            "usr/share/man/de/man1/a.1.gz": _manual(SAME, GERMAN),
            "usr/share/man/de/man1/b.1.gz": _manual(GERMAN, LAST),
        },
    )
    (german / "usr/share/man/de/man1/c.1.gz").symlink_to("missing.1.gz")
    out = tmp_path / "out"
    command.main([f"--out={out}", "--source=manpages", "--language=de,en"])

    def texts(language):
        lines = (out / f"manpages-{language}.jsonl").read_text().splitlines()
        return [json.loads(line)["text"] for line in lines]

    assert texts("de") == [GERMAN, LAST]
    assert texts("en") == [f"{SAME}\n\n{ENGLISH}"]
    told = json.loads((out / "manpages-en.licences.json").read_text())
    rest = {"version": "1:2.3", "licence": "per page", "copyright": "A notice"}
    assert told == [{"package": name} | rest for name in ("manpages", "manpages-dev")]
    assert {one.name for one in out.iterdir()} == {
        f"manpages-{language}{end}"
        for language in ("de", "en")
        for end in (".jsonl", ".licences.json")
    }
    assert "manpages-de.jsonl: 0.00 MB of text" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--source=novels"], "--source must be of libreoffice-help, "),
        (["--source=manpages", "--language=ko"], "manpages has --language=en,ja,"),
        ([], "expected --out and one --source or more"),
        (
            ["--source=gnome-docs"],
            "apt-get cannot get gnome-user-docs (E: Unable to locate package",
        ),
    ],
)
def test_what_cannot_be_had_ends_the_command_with_2(packages, arguments, message, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        command.main([f"--out={tmp_path / 'out'}", *arguments])
    assert ended.value.code == 2
    assert message in capsys.readouterr().err
    assert not list((tmp_path / "out").glob("*"))


def test_without_debians_commands_the_error_says_so(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SystemExit) as ended:
        command.main([f"--out={tmp_path}", "--source=manpages", "--language=en"])
    assert ended.value.code == 2
    assert "expected apt-get and dpkg-deb" in capsys.readouterr().err


def test_the_sources_are_listed(capsys):
    command.main(["--list"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(debian.SOURCES)
    assert lines[0].split() == ["libreoffice-help", "en,ko,ja,zh,vi,de,fr,es,ru", "MPL-2.0"]
