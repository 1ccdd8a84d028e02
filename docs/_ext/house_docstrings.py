"""The docstrings of this project, which are plain text, as reStructuredText.

Three things in them mean something else to Sphinx:

an indented paragraph
    is an example or a drawing, and becomes a literal block;
`name: meaning` on lines of their own, continued with an indent
    is a list of arguments or attributes, and becomes a definition list;
a letter behind code, as in several `Message`s,
    is kept apart from it.

Sections in Google's style (`Args:`, `Returns:`, `Raises:`) are read by Sphinx's napoleon, but not
in the docstrings of attributes, where it would take a sentence with a colon for a type.

Tables and definition lists are reStructuredText already and stay as they are.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import groupby, takewhile
from typing import Any

from sphinx.application import Sphinx
from sphinx.ext.napoleon import Config, GoogleDocstring

ITEM = re.compile(r"(?P<names>[a-z_*]\w*\*?(?:, [a-z_*]\w*\*?)*): (?P<meaning>.+)")
TABLE_RULE = re.compile(r"=+( =+)+")
NAPOLEON = Config(napoleon_use_rtype=False)
GLUED = re.compile(r"(`[^`]+`)(?=\w)")


def setup(app: Sphinx) -> dict[str, bool]:
    """Let Sphinx know."""
    app.connect("autodoc-process-docstring", _process)
    return {"parallel_read_safe": True}


def _process(
    app: Sphinx, what: str, name: str, obj: object, options: Any, lines: list[str]
) -> None:
    if what not in ("attribute", "data", "property", "module"):
        lines[:] = GoogleDocstring(lines, NAPOLEON, app, what, name, obj, options).lines()
    lines[:] = as_rst(lines)


def as_rst(lines: list[str]) -> list[str]:
    """Return the lines of a docstring as reStructuredText."""
    result: list[str] = []
    for paragraph in _paragraphs(lines):
        result += [*_paragraph_as_rst(paragraph), ""]
    return result


def items_of(lines: list[str]) -> Iterator[str]:
    """Yield the items of a docstring's lists and of its `Args:`, each on one line."""
    if "Args:" in lines:
        rest = lines[lines.index("Args:") + 1 :]
        lines = [line[4:] for line in takewhile(lambda line: not line[:1].strip(), rest)]
    for paragraph in _paragraphs(lines):
        if ITEM.fullmatch(paragraph[0]) and _is_list(paragraph):
            yield from re.sub(r"\n\s+", " ", "\n".join(paragraph)).splitlines()


def _is_full(line: str) -> bool:
    return bool(line.strip())


def _paragraphs(lines: list[str]) -> Iterator[list[str]]:
    """Yield what stands between empty lines; indented neighbours are one paragraph."""
    groups = [list(group) for full, group in groupby(lines, key=_is_full) if full]
    while groups:
        paragraph = groups.pop(0)
        while groups and paragraph[0].startswith(" ") and groups[0][0].startswith(" "):
            paragraph += ["", *groups.pop(0)]
        yield paragraph


def _paragraph_as_rst(paragraph: list[str]) -> list[str]:
    first = paragraph[0]
    if TABLE_RULE.fullmatch(first):
        return paragraph
    if first.startswith(" "):
        return ["::", "", *paragraph]
    if any(line.startswith(("├", "│", "└")) for line in paragraph):
        return ["::", "", *(f"    {line}" for line in paragraph)]
    if ITEM.fullmatch(first) and _is_list(paragraph):
        paragraph = list(_definitions(paragraph))
    return [GLUED.sub(r"\1\\ ", line) for line in paragraph]


def _is_list(paragraph: list[str]) -> bool:
    """Tell a list from a sentence with a colon: all its lines are items or continue one."""
    return all(line.startswith("    ") or ITEM.fullmatch(line) for line in paragraph)


def _definitions(paragraph: list[str]) -> Iterator[str]:
    for line in paragraph:
        item = ITEM.fullmatch(line)
        if item:
            yield ", ".join(f"`{name}`" for name in item["names"].split(", "))
            yield f"    {item['meaning']}"
        else:
            yield line
