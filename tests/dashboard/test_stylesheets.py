"""The stylesheets: they work in themes that lack the variables of Django's admin."""

from __future__ import annotations

import re

import pytest

from tests.support.docs_runner import ROOT

FOLDER = ROOT / "src" / "django_broadcaster" / "static" / "django_broadcaster"
STYLESHEETS = sorted(FOLDER.glob("*.css"))
DEFINED = {
    name
    for sheet in STYLESHEETS
    for block in re.findall(r"^:root \{(.*?)\n\}", sheet.read_text(), re.MULTILINE | re.DOTALL)
    for name in re.findall(r"^\s+(--[\w-]+):", block, re.MULTILINE)
}
"""The variables that the stylesheets define for every page."""


@pytest.mark.parametrize("sheet", STYLESHEETS, ids=lambda sheet: sheet.name)
def test_every_variable_has_a_value_in_every_theme(sheet: object) -> None:
    """A variable is one of ours, or has a fallback for a theme that does not define it."""
    used = re.findall(r"var\((--[\w-]+)\s*(,|\))", sheet.read_text())  # type: ignore[attr-defined]
    assert used
    assert {name for name, end in used if end == ")"} <= DEFINED
    assert not {name for name, end in used if end == ","} & DEFINED


def test_scripts_ask_for_no_variable() -> None:
    """A canvas gets its colours from elements, since a variable may hold another one."""
    for script in FOLDER.rglob("*.js"):
        if "vendor" not in script.parts:
            assert "getPropertyValue" not in script.read_text(), script
