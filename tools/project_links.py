"""What the package says of itself on PyPI: where its repository is, and a README whose links work.

The repository's address is not written down here: it is where the checkout came from. A build
takes it from `BROADCASTER_REPOSITORY_URL`, else from the git remote `origin`, else, in a source
distribution, from the metadata there. Without any the README's links into the repository become
plain text.
"""

from __future__ import annotations

import os
import re
import subprocess
from email.parser import Parser
from pathlib import Path

PYPI = "https://pypi.org/project/django-broadcaster/"
VARIABLE = "BROADCASTER_REPOSITORY_URL"

_LINK = re.compile(r"\[([^]]+)\]\((?!\w+:|#)([^)\s]+)\)")
_SECURE = re.compile(r"(?:https?|ssh)://(?:[^@/]*@)?([^/:]+)(?::\d+)?/(.+)")
_SHORT = re.compile(r"[\w.-]+@([\w.-]+):(.+)")
"""The addresses that git knows: `https://host/path`, `ssh://git@host/path`, `git@host:path`."""


def repository_of(root: Path) -> str | None:
    """Return the address of the repository for a browser, or None where it is not known."""
    return (
        web_address(os.environ.get(VARIABLE, ""))
        or web_address(_origin(root))
        or web_address(_from_source_distribution(root))
    )


def web_address(remote: str) -> str | None:
    """Return the address of a git remote for a browser, without what one logs in by."""
    found = _SECURE.fullmatch(remote.strip()) or _SHORT.fullmatch(remote.strip())
    if found is None:
        return None  # none at all, or a folder of this machine
    host, path = found.groups()
    return f"https://{host}/{path.strip('/').removesuffix('.git')}"


def urls(repository: str | None) -> dict[str, str]:
    """Return the addresses that PyPI shows beside the README."""
    if repository is None:
        return {"Homepage": PYPI}
    return {
        "Homepage": PYPI,
        "Repository": repository,
        "Documentation": f"{repository}/blob/main/docs/index.md",
        "Changelog": f"{repository}/blob/main/CHANGELOG.md",
        "Issues": f"{repository}/issues",
    }


def readme(text: str, repository: str | None, version: str) -> str:
    """Return the README with links that work outside of the repository, for this version."""
    if repository is None:
        return _LINK.sub(r"\1", text)
    return _LINK.sub(rf"[\1]({repository}/blob/v{version}/\2)", text)


def version_of(root: Path) -> str:
    """Return the package's version."""
    text = (root / "src" / "django_broadcaster" / "__init__.py").read_text(encoding="utf-8")
    found = re.search(r'^__version__ = "(.+)"', text, re.MULTILINE)
    assert found, "no __version__"
    return found[1]


def _origin(root: Path) -> str:
    if not (root / ".git").exists():
        return ""
    command = ["git", "-C", str(root), "config", "--get", "remote.origin.url"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout
    except OSError:
        return ""


def _from_source_distribution(root: Path) -> str:
    try:
        text = (root / "PKG-INFO").read_text(encoding="utf-8")
    except OSError:
        return ""
    fields = Parser().parsestr(text).get_all("Project-URL", [])
    addresses = dict(field.split(", ", 1) for field in fields)
    return addresses.get("Repository", "")
