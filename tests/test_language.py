"""`tools/language.py` finds the words that the project's texts do without, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools import language


def found(path: str, source: str) -> list[tuple[int, str]]:
    """Return the line and the words of each finding."""
    return [(each.line, each.words) for each in language.findings(path, source)]


def test_no_text_of_the_project_has_a_banned_word(capsys: pytest.CaptureFixture[str]) -> None:
    """Strings, docstrings, comments, templates, scripts and pages are in plain words."""
    status = language.main([])
    assert capsys.readouterr().out == ""
    assert status == 0


@pytest.mark.parametrize(
    "sentence",
    [
        "The relay is started anew",
        "trouble, going on in 5 s",
        "The relay is told\n to stop",
        "That is laid to the event",
        "The event that is to blame",
        "The error stands in the log",
        "stop after so many polls",
        "10 at the most",
        "until it is put right",
        "The answer is no HTTP",
        "insists on it",
        "Handler h gave back a coroutine",
        "The rooms of the package",
        "Rows do not know wires",
        "The letters of a batch",
        "The flight of a batch",
    ],
)
@pytest.mark.parametrize(
    ("path", "around"),
    [
        ("a.py", '"""{}."""'),
        ("a.py", 'raise ValueError("""{}""")'),
        ("a.md", "{}"),
        ("a.html", "<p>{}</p>"),
        ("a.js", "say(`{}`)"),
    ],
)
def test_a_banned_word_is_found_in_every_kind_of_text(
    sentence: str, path: str, around: str
) -> None:
    """Each rule finds its words in docstrings, strings, pages, templates and scripts."""
    assert len(found(path, around.format(sentence))) == 1


@pytest.mark.parametrize(
    "sentence",
    [
        "Look up what the broker has, and who asked. What does it cost? Nothing.",
        "There is no relay, and the event is no longer pending.",
        "A dead letter, or the dead\nletters of a key: letters and digits.",
        "Finish the batch in flight. Measure wall-clock time.",
        "Troubleshooting. Go through the proxy. The format on the wire.",
        "There is room for more, so the rest is sent; back off, then give up.",
    ],
)
@pytest.mark.parametrize("path", ["a.md", "a.html"])
def test_plain_words_are_left_alone(sentence: str, path: str) -> None:
    """Words that only look like a banned one are no findings."""
    assert found(path, sentence) == []
    assert found("a.py", f'"""Say.\n\n{sentence}\n"""') == []


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("a.py", 'log.info("it is unavailable, events are left")'),
        ("a.py", 'log.info(f"its batch took {seconds} s")'),
        ("a.py", 'def f():\n    """What became of it."""'),
        ("a.py", 'x = 1\n"""Who may do that."""'),
        ("a.md", "Text.\n\n## What is guaranteed\n"),
        ("a.md", "# Page\n\nText. What is\nguaranteed is listed.\n"),
        ("a.html", '<a title="Nobody reads this">x</a>'),
        ("a.js", 'say("Whoever reads it")'),
    ],
)
def test_a_message_begins_with_its_subject(path: str, source: str) -> None:
    """A log line, an error, a docstring or a heading that begins with a pronoun is found."""
    assert len(found(path, source)) == 1


@pytest.mark.parametrize(
    ("path", "source", "line"),
    [
        ("a.py", '"""Say.\n\nIt is started anew.\n"""\n', 3),
        ("a.py", 'x = (\n    "a text that "\n    "is sent anew\\n\\n\\n\\n"\n)\n', 3),
        ("a.py", "x = 1  # one\n\ny = 2  # two\n# is made\n# anew\n", 5),
        ("a.html", "<p>\n\nanew {# anew #}\n{% anew %}</p>", 3),
        ("a.html", "\n<p>{% translate 'It is anew.' %}</p>", 2),
        ("a.js", "// fine\n/* one\n anew */", 3),
        ("a.md", "# A\n\n```\nanew\n```\n\nText, anew, and `anew` <!-- anew -->.\n", 7),
    ],
)
def test_the_line_is_that_of_the_word(path: str, source: str, line: int) -> None:
    """A finding names the line of the file, and code is not read."""
    ((where, words),) = found(path, source)
    assert words == "anew"
    assert abs(where - line) <= ("\\n" in source), "a string's own line breaks are not the file's"


def test_a_finding_is_printed_with_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The status is 1, and each line says file, line, the words and what to write."""
    (tmp_path / "page.md").write_text("# Page\n\nIt begins\nanew.\n")
    monkeypatch.setattr(language, "ROOT", tmp_path)
    assert language.main(["page.md"]) == 1
    assert capsys.readouterr().out == "page.md:4: 'anew': again, restart, retry\n"
