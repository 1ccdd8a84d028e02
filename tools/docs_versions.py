"""Build the documentation of each release and of the working tree as one site.

    python tools/docs_versions.py [--output DIRECTORY] [--base-url URL]

The site has a directory for each version, `stable` with the newest release, and `dev` with the
working tree. Its first page leads to `stable`, or to `dev` if there is no release. Releases are the
tags of git, such as `1.2.0` or `v1.2.0`, whose tree has `docs/conf.py`. A release that is in the
output already is not built again, unless its tag has moved.

Two environment variables are for `docs/conf.py`: `DOCS_VERSION`, and `DOCS_CANONICAL` with the
address of the newest version, to which search engines are referred.

`versions.js` has the versions and their pages. The pages of all versions load it, so the selector
of an old version lists the newer ones, too.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
TAG = re.compile(r"v?((\d+)\.(\d+)\.(\d+))")
DEV = "dev"
STABLE = "stable"
BUILT_FROM = ".built-from"
"""The file in a version's directory with the commit and the canonical address of its build."""

FIRST_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width,initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="refresh" content="0; url={path}/index.html">
{canonical}<title>Documentation</title>
<p><a href="{path}/index.html">Documentation</a></p>
</html>
"""


@dataclass(frozen=True)
class Release:
    """A tag of git with a version that is released.

    name: the version, which is also its directory
    commit: the commit of the tag
    """

    name: str
    commit: str

    @property
    def order(self) -> tuple[int, ...]:
        """The numbers of the version."""
        return tuple(int(each) for each in self.name.split("."))


def releases(repository: Path) -> list[Release]:
    """Return the releases that have documentation, the newest one first."""
    found = []
    for tag in _git(repository, "tag", "--list").decode().split():
        version = TAG.fullmatch(tag)
        if version is None:
            continue
        if not _git(repository, "ls-tree", "--name-only", tag, "docs/conf.py"):
            print(f"Skipped {tag}: it has no docs/conf.py.")
            continue
        commit = _git(repository, "rev-parse", f"{tag}^{{commit}}").decode().strip()
        found.append(Release(version[1], commit))
    return sorted(found, key=lambda each: each.order, reverse=True)


def build_site(repository: Path, output: Path, base_url: str) -> None:
    """Build what is missing, and write the list of versions and the first page.

    Args:
        repository: The working tree.
        output: The directory of the site.
        base_url: The address of the site; empty if it is unknown.
    """
    output.mkdir(parents=True, exist_ok=True)
    found = releases(repository)
    first = STABLE if found else DEV
    canonical = f"{base_url.rstrip('/')}/{first}/" if base_url else ""
    for release in found:
        _build_release(repository, release, output / release.name, canonical)
    _build(repository, output / DEV, DEV, canonical, strict=True)
    shutil.rmtree(output / STABLE, ignore_errors=True)
    if found:
        shutil.copytree(output / found[0].name, output / STABLE)
    versions = [
        *(_listed(output, each.name, newest=each == found[0]) for each in found),
        _listed(output, DEV, newest=False),
    ]
    text = json.dumps(versions, separators=(",", ":"))
    (output / "versions.js").write_text(f"window.DOCS_VERSIONS = {text};\n")
    link = f'<link rel="canonical" href="{canonical}">\n' if canonical else ""
    (output / "index.html").write_text(FIRST_PAGE.format(path=first, canonical=link))


def _build_release(repository: Path, release: Release, target: Path, canonical: str) -> None:
    """Build a release from its tag, unless the target has it."""
    mark = f"{release.commit} {canonical}\n"
    marker = target / BUILT_FROM
    if marker.is_file() and marker.read_text() == mark:
        print(f"Kept {release.name}.")
        return
    with tempfile.TemporaryDirectory() as folder:
        archive = _git(repository, "archive", release.commit)
        with tarfile.open(fileobj=io.BytesIO(archive)) as files:
            files.extractall(folder, filter="data")
        # A newer Sphinx may warn about an old release, which can't be changed any more.
        _build(Path(folder), target, release.name, canonical, strict=False)
    marker.write_text(mark)


def _build(tree: Path, target: Path, version: str, canonical: str, *, strict: bool) -> None:
    """Build the documentation of a tree; raises CalledProcessError if that fails."""
    print(f"Building {version}.", flush=True)
    shutil.rmtree(target, ignore_errors=True)
    rules = ("--fail-on-warning", "--keep-going", "--nitpicky") if strict else ()
    with tempfile.TemporaryDirectory() as cache:
        subprocess.run(
            [
                *(sys.executable, "-m", "sphinx", "--quiet", *rules),
                *("-b", "html", "-d", cache, tree / "docs", target),
            ],
            env={**os.environ, "DOCS_VERSION": version, "DOCS_CANONICAL": canonical},
            check=True,
        )


def _listed(output: Path, name: str, *, newest: bool) -> dict[str, Any]:
    return {"name": name, "newest": newest, "pages": sorted(_pages(output / name))}


def _pages(folder: Path) -> Iterator[str]:
    for file in folder.rglob("*.html"):
        path = file.relative_to(folder)
        if not path.parts[0].startswith("_"):
            yield path.with_suffix("").as_posix()


def _git(repository: Path, *arguments: str) -> bytes:
    return subprocess.run(
        ["git", "-C", repository, *arguments], check=True, capture_output=True
    ).stdout


def main() -> None:
    """Parse the arguments, and build the site."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--output", type=Path, help="default: docs/_build/versions")
    parser.add_argument("--base-url", default="", help="address of the site, for canonical links")
    parser.add_argument("--repository", type=Path, default=ROOT, help=argparse.SUPPRESS)
    options = parser.parse_args()
    output = options.output or options.repository / "docs" / "_build" / "versions"
    build_site(options.repository.resolve(), output.resolve(), options.base_url)
    print(f"The site is in {output}.")


if __name__ == "__main__":
    main()
