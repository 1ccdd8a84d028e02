"""Fills in what a build finds out: the project's addresses, and its README for PyPI."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

sys.path.insert(0, str(Path(__file__).resolve().parent))

from tools.project_links import readme, repository_of, urls, version_of  # see above


class LinksHook(MetadataHookInterface):
    """Sets the fields `urls` and `readme`."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Set both fields."""
        root = Path(self.root)
        repository = repository_of(root)
        text = (root / "README.md").read_text(encoding="utf-8")
        metadata["urls"] = urls(repository)
        metadata["readme"] = {
            "content-type": "text/markdown",
            "text": readme(text, repository, version_of(root)),
        }
