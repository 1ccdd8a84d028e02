"""Find words in this project's texts that a reader would have to guess at.

    python tools/language.py [PATH ...]

Read the texts of the code (strings, docstrings, comments), the templates, the scripts and the
documentation. Print each finding as `file:line: words (rule)`, and exit with 1 if there are any.
The rules are those of "Language" in CONTRIBUTING.md.
"""

from __future__ import annotations

import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CHECKED = (
    *("src", "example", "docs", "tests/support"),
    *("README.md", "CONTRIBUTING.md", "CHANGELOG.md"),
)
NOT_OURS = ("vendor", "_build")


@dataclass(frozen=True)
class Rule:
    """Words that are not used, and what to write.

    banned: a regular expression; a space in it is any white space
    advice: the plain words
    allowed: contexts in which the words are as they should be
    """

    banned: str
    advice: str
    allowed: str = ""

    def hits(self, text: str) -> Iterator[re.Match[str]]:
        """Yield where the words are."""
        allowed = [each.span() for each in _compiled(self.allowed).finditer(text)]
        for hit in _compiled(self.banned).finditer(text):
            if not any(start <= hit.start() < end for start, end in allowed):
                yield hit


def _compiled(words: str) -> re.Pattern[str]:
    # re.compile has a cache of its own. An empty expression would match everywhere.
    return re.compile(words.replace(" ", r"\s+") or r"(?!)", re.IGNORECASE)


BEGINNING = Rule(
    r"\A(it|its|it's|what|who|whoever|whatever|those|nobody|somebody)\b",
    "begin with the thing that acts",
    r"\Awhat's new\b",
)
"""How no message, docstring or heading begins."""

SENTENCES = Rule(
    r"(?:\A|(?<=\n\n)|(?<=[.!]\x20)|(?<=[.!]\n))(what|who|whoever|whatever|nobody|somebody)\b(?![^.!]*\?)",
    "begin with the thing that acts",
)
"""How no sentence of a page begins, unless it is a question."""

WORDS = (
    Rule(r"\banew\b", "again, restart, retry"),
    Rule(r"\btrouble[ds]?\b", "error, failure, the error itself"),
    Rule(r"\b(tell|tells|telling|told) of\b", "report, log, show"),
    Rule(r"\btold\b", "reported, configured, called with"),
    Rule(r"\b(laid|lay|lays) to\b", "attributed to, counted against"),
    Rule(r"\bto blame\b", "the cause"),
    Rule(r"\b(stand|stands|stood|standing) in\b", "is in"),
    Rule(r"\bso many\b", "N, this many"),
    Rule(r"\bbe it\b", "whether, or"),
    Rule(r"\bat the (most|least)\b", "at most, at least"),
    Rule(r"\b(put|puts|putting) right\b", "fix, correct"),
    Rule(
        r"\b(is|are|was|were|be|being) no\b",
        "is not a",
        r"\b(there|here) (is|are|was|were) no\b"
        r"|\b(is|are|was|were|be) no (longer|different|more than|less than|reason|matter)\b",
    ),
    Rule(r"\b(own|owns|owned|owning) up\b", "report, admit"),
    Rule(r"\binsist(s|ed|ing)?\b", "require"),
    Rule(r"\b(give|gives|gave|given|giving) (it |them )?back\b", "return, release"),
    Rule(r"\bgone through\b", "processed, read"),
    Rule(r"\bthe affair of\b", "the task of"),
    Rule(r"\brooms\b|\ba room of\b", "package, layer"),
    Rule(r"\bwalls?\b", "rule, limit", r"\bwall[- ](clock|time)\b"),
    Rule(r"\bwires\b", "backends, connections"),
    Rule(
        r"\bletters?\b",
        "message",
        r"\b(dead|capital|small|lower-case|upper-case|ASCII|first)[- ]letters?\b"
        r"|\bletters?,? (and|or|digits|outside)\b|\ba letter (behind|after) code\b",
    ),
    Rule(r"\boffices?\b", "sender, connection", r"\bfor the office\b"),
    Rule(r"\bflights?\b", "in flight, or: the messages in flight", r"\b(in|in-)\s?flight\b"),
)


@dataclass(frozen=True)
class Text:
    """A piece of text as a reader sees it, and its first and last line in the file.

    is_message: whether it begins where a reader begins, as an error does and a comment does not
    is_page: whether it is a page of the documentation, of many sentences
    """

    line: int
    last: int
    words: str
    is_message: bool = False
    is_page: bool = False

    def line_of(self, hit: re.Match[str]) -> int:
        """Return the line of a word. A string may have more line breaks than its literal."""
        return min(self.line + self.words.count("\n", 0, hit.start()), self.last)


@dataclass(frozen=True)
class Finding:
    """A word that is not plain, and where."""

    path: str
    line: int
    words: str
    advice: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {' '.join(self.words.split())!r}: {self.advice}"


def findings(path: str, source: str) -> Iterator[Finding]:
    """Yield what is wrong in a file of that name and content."""
    for text in texts(path, source):
        rules = (*WORDS, *[BEGINNING] * text.is_message, *[SENTENCES] * text.is_page)
        for rule in rules:
            for hit in rule.hits(text.words):
                yield Finding(path, text.line_of(hit), hit[0], rule.advice)


def texts(path: str, source: str) -> Iterator[Text]:
    """Yield the texts of a file, read as the ending of its name says."""
    readers = {".py": of_python, ".html": of_template, ".js": of_script, ".md": of_markdown}
    reader = readers.get(Path(path).suffix)
    if reader:
        yield from reader(source)


def of_python(source: str) -> Iterator[Text]:
    """Yield strings, docstrings and comments."""
    parts: set[ast.AST] = set()  # the strings that a longer text has
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and _string(node.value):
            parts.add(node.value)
            words = _without_code(_string(node.value).strip())
            yield Text(node.lineno, node.end_lineno or node.lineno, words, is_message=True)
        elif isinstance(node, ast.JoinedStr):
            parts.update(node.values)
            words = "".join(_string(each) or "{}" for each in node.values)
            yield Text(node.lineno, node.end_lineno or node.lineno, words, _is_sentence(words))
        elif isinstance(node, ast.Constant) and node not in parts:
            words = _string(node)
            if words and not _is_name(words):
                yield Text(node.lineno, node.end_lineno or node.lineno, words, _is_sentence(words))
    yield from _comments(source)


def _string(node: ast.AST) -> str:
    """Return a literal's text, empty if it is not one."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    return ""


def _is_name(words: str) -> bool:
    """Return True for `a.name`, `a-path/` or `AN_OPTION`, which nobody reads as a sentence."""
    return (
        re.fullmatch(r"[\w.:/%*@+-]*[_./:%*@+\d-][\w.:/%*@+-]*|[a-z]+|[A-Z_]+", words) is not None
    )


def _is_sentence(words: str) -> bool:
    return re.match(r"\S+\s+\S+\s+\S+", words) is not None


def _comments(source: str) -> Iterator[Text]:
    """Yield the comments, those on lines that follow each other as one text."""
    block: list[str] = []
    line = 0
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type != tokenize.COMMENT:
            continue
        if block and token.start[0] != line + 1:
            yield Text(line - len(block) + 1, line, _without_code("\n".join(block)))
            block = []
        line = token.start[0]
        block.append(token.string.lstrip("#"))
    yield Text(line - len(block) + 1, line, _without_code("\n".join(block)))


def of_template(source: str) -> Iterator[Text]:
    """Yield the text between a template's tags, and that in its attributes and its own tags."""
    reader = _TemplateReader()
    # Django's tags become the text that they show, and do not move lines.
    shown = re.sub(
        r"""\{%-?\s*(?:translate|trans)\s+(["'])(.*?)\1.*?%\}""",
        r"\2",
        re.sub(r"\{#.*?#\}|\{%\s*comment.*?endcomment\s*%\}", _blank, source, flags=re.DOTALL),
    )
    reader.feed(re.sub(r"\{%.*?%\}|\{\{.*?\}\}", _blank, shown, flags=re.DOTALL))
    reader.close()
    yield from reader.found


class _TemplateReader(HTMLParser):
    SHOWN = frozenset({"alt", "aria-label", "placeholder", "title"})

    def __init__(self) -> None:
        super().__init__()
        self.found: list[Text] = []
        self.hidden = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.hidden = tag in ("script", "style")
        for name, value in attrs:
            if name in self.SHOWN and value:
                self._add(value, self.getpos()[0], is_message=True)

    def handle_endtag(self, tag: str) -> None:
        self.hidden = False

    def handle_data(self, data: str) -> None:
        if not self.hidden and data.strip():
            leading = data[: len(data) - len(data.lstrip())]
            self._add(data.strip(), self.getpos()[0] + leading.count("\n"))

    def _add(self, words: str, line: int, *, is_message: bool = False) -> None:
        self.found.append(Text(line, line + words.count("\n"), words, is_message))


SCRIPT = re.compile(
    r"""//(?P<line>[^\n]*)|/\*(?P<block>.*?)\*/"""
    r"""|"(?P<double>(?:\\.|[^"\\\n])*)"|'(?P<single>(?:\\.|[^'\\\n])*)'"""
    r"""|`(?P<template>(?:\\.|[^`\\])*)`""",
    re.DOTALL,
)


def of_script(source: str) -> Iterator[Text]:
    """Yield a script's strings and comments."""
    for piece in SCRIPT.finditer(source):
        line, last = (source.count("\n", 0, at) + 1 for at in piece.span())
        is_comment = piece.lastgroup in ("line", "block")
        words = re.sub(r"\$\{[^}]*\}", "{}", piece[piece.lastgroup or 0])
        if is_comment or not _is_name(words):
            yield Text(line, last, words, not is_comment and _is_sentence(words))


def of_markdown(source: str) -> Iterator[Text]:
    """Yield a page without its code, headings by themselves."""
    page = re.sub(r"^([ \t]*)(```+|~~~+).*?^\1\2", _blank, source, flags=re.DOTALL | re.MULTILINE)
    page = re.sub(r"\]\([^)]*\)", _blank, _without_code(page))
    page = re.sub(r"<!--.*?-->", _blank, page, flags=re.DOTALL)
    yield Text(1, page.count("\n") + 1, page, is_page=True)
    for number, line in enumerate(page.splitlines(), 1):
        heading = re.fullmatch(r"#+ (.*)", line)
        if heading:
            yield Text(number, number, heading[1], is_message=True)


def _without_code(text: str) -> str:
    """Return a text in which code, in backticks, is blank."""
    return re.sub(r"``.*?``|`[^`\n]*(?:\n[^`\n]*)?`", _blank, text, flags=re.DOTALL)


def _blank(match: re.Match[str]) -> str:
    """Keep the lines and nothing else."""
    return "\n" * match[0].count("\n") or " "


def files(paths: Iterable[str]) -> Iterator[Path]:
    """Yield the files at and below paths."""
    for each in paths:
        path = ROOT / each
        if not path.exists():
            raise SystemExit(f"{each} does not exist")
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file() and not set(file.parts) & set(NOT_OURS):
                yield file


def main(asked: list[str]) -> int:
    """Print the findings in the files asked for, or in all that are checked; return the status."""
    status = 0
    for file in files(asked or CHECKED):
        path = file.resolve().relative_to(ROOT).as_posix()
        if file.suffix not in (".py", ".html", ".js", ".md"):
            continue
        for finding in findings(path, file.read_text(encoding="utf-8")):
            print(finding)
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
