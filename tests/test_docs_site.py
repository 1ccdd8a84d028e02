"""The site of the documentation, as `make docs` and `make docs-versions` build it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from xml.etree import ElementTree

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

from django_broadcaster.states import TRANSITIONS, OutboxEventStatus
from tests.support.browser import browser, opened
from tests.support.docs_runner import ROOT

__all__ = ["browser"]  # a fixture

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

DOCS = ROOT / "docs"
DESK = {"width": 1280, "height": 900}
PHONE = {"width": 390, "height": 844}
SCHEMES = ("light", "dark")

CONF = """
import os
project = "Shop"
docs_version = os.environ.get("DOCS_VERSION", "")
html_baseurl = os.environ.get("DOCS_CANONICAL", "")
html_context = {"docs_version": docs_version}
extensions = ["myst_parser"]
templates_path = ["_templates"]
exclude_patterns = ["_templates"]
html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["versions.css"]
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site with one version."""
    target = tmp_path_factory.mktemp("docs") / "html"
    words = ("--quiet", "--fail-on-warning", "--nitpicky", "-b", "html")
    run = subprocess.run(
        [sys.executable, "-m", "sphinx", *words, "-d", target.parent / "cache", DOCS, target],
        capture_output=True,
        text=True,
        env={key: value for key, value in os.environ.items() if key != "DJANGO_SETTINGS_MODULE"},
    )
    assert run.returncode == 0, run.stderr
    return target


def pages(site: Path) -> Iterator[str]:
    """Yield the address of each page, and of the indexes of names."""
    for file in sorted(site.rglob("*.html")):
        if not file.relative_to(site).parts[0].startswith("_"):
            yield file.as_uri()


def overflowing(page: Page) -> list[str]:
    """Return what makes an article wider than the screen, except what scrolls by itself.

    The theme cuts what is wider than the page, so scrolling counts within the article only.
    """
    found: list[str] = page.evaluate(
        """() => {
            const width = document.documentElement.clientWidth;
            const article = document.querySelector("article");
            const scrolls = (node) => {
                for (let up = node.parentElement; up !== article; up = up.parentElement) {
                    if (getComputedStyle(up).overflowX !== "visible") return true;
                }
                return false;
            };
            return [...article.querySelectorAll("*")]
                .filter((node) => node.getBoundingClientRect().right > width + 1 && !scrolls(node))
                .map((node) => `${node.tagName} ${node.textContent.slice(0, 60)}`);
        }"""
    )
    return found


def test_no_page_is_wider_than_a_phone(site: Path, browser: Browser) -> None:
    """Wide tables and code scroll by themselves; the page does not."""
    with opened(browser, viewport=PHONE) as page:
        for address in pages(site):
            page.goto(address)
            assert overflowing(page) == [], address


def test_what_is_wider_than_a_phone_is_found(site: Path, browser: Browser) -> None:
    """The test above fails for a wide part of a page, unless a part around it scrolls."""
    with opened(browser, viewport=PHONE) as page:
        page.goto((site / "index.html").as_uri())
        add = """(style) => document.querySelector("article section").insertAdjacentHTML(
            "beforeend", `<div style="${style}"><p style="width: 2000px">Wide</p></div>`
        )"""
        page.evaluate(add, "overflow-x: auto")
        assert overflowing(page) == []
        page.evaluate(add, "")
        assert overflowing(page) == ["P Wide"]


def test_the_drawing_of_the_states_has_every_move() -> None:
    """The arrows are those of the code, apart from `processing`, which the relay does not move."""
    drawn = [
        move
        for path in ElementTree.parse(DOCS / "_diagrams" / "states.svg").iter()  # noqa: S314  # our own file
        for move in path.get("data-moves", "").split()
    ]
    assert sorted(drawn) == sorted(
        f"{before}:{after}"
        for before, moves in TRANSITIONS.items()
        for after in moves
        if before != OutboxEventStatus.PROCESSING
    )


@pytest.mark.parametrize("scheme", SCHEMES)
def test_drawings_have_the_colours_of_the_theme(site: Path, browser: Browser, scheme: str) -> None:
    """Text is readable in the theme that the reader chose, whatever the system has."""
    with opened(browser, viewport=DESK, color_scheme=scheme) as page:
        page.goto((site / "reference" / "models-and-states.html").as_uri())
        for theme, color in (("light", "rgb(0, 0, 0)"), ("dark", "rgb(207, 208, 208)")):
            page.evaluate(f"document.body.dataset.theme = '{theme}'")
            expect(page.locator(".diagram text").first).to_have_css("fill", color)


def test_titles_break_between_words_on_a_phone(site: Path, browser: Browser) -> None:
    """The longest name of a class fits on one line."""
    with opened(browser, viewport=PHONE) as page:
        page.goto((site / "how-to" / "backends" / "redis-streams.html").as_uri())
        lines = page.evaluate(
            """() => {
                const range = document.createRange();
                const text = document.querySelector("h1").firstChild;
                const start = text.data.indexOf("RedisStreamBackend");
                range.setStart(text, start);
                range.setEnd(text, start + "RedisStreamBackend".length);
                return range.getClientRects().length;
            }"""
        )
        assert lines == 1


def test_every_block_of_code_has_a_copy_button(site: Path, browser: Browser) -> None:
    """A reader copies an example with one click."""
    with opened(browser, viewport=DESK) as page:
        page.goto((site / "how-to" / "typed-events.html").as_uri())
        blocks = page.locator("div.highlight pre")
        expect(page.locator("div.highlight button.copybtn")).to_have_count(blocks.count())
        assert blocks.count() > 5


@contextmanager
def served(site: Path) -> Iterator[str]:
    """Serve a site below a path for the time of the block; gives the address."""

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:  # as the base class names it
            pass

    handler = partial(Handler, directory=str(site.parent))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/{site.name}"
        finally:
            server.shutdown()
            thread.join()


def test_the_search_finds_settings_and_titles(site: Path, browser: Browser) -> None:
    """The index of the search has the names of settings, and the titles of pages."""
    with served(site) as address, opened(browser, viewport=DESK) as page:
        for words, file in (
            ("OUTBOX_LEASE_SECONDS", "reference/settings.html"),
            ("Troubleshooting", "how-to/troubleshooting.html"),
        ):
            page.goto(f"{address}/search.html?q={words}")
            found = page.locator(f"#search-results a[href*='{file}']")
            expect(found.first).to_be_visible()


@pytest.mark.parametrize("scheme", SCHEMES)
def test_pages_are_accessible(site: Path, browser: Browser, scheme: str) -> None:
    """axe-core finds no serious problem in what this project adds to the theme."""
    with opened(browser, viewport=DESK, color_scheme=scheme) as page:
        for name in ("index", "explanation/example-events", "explanation/relay"):
            page.goto((site / f"{name}.html").as_uri())
            # Furo's colours of code and links are its own.
            assert violations(page, "article", but="color-contrast") == [], name


def violations(page: Page, part: str, *, but: str = "") -> list[str]:
    """Return what axe-core finds wrong with a part of a page, except by one rule."""
    rules = {"runOnly": ["wcag2a", "wcag2aa"], "preload": False}
    found = Axe().run(page, context=part, options=rules).response["violations"]
    return [
        f"{each['id']}: {node['html'][:200]}"
        for each in found
        for node in each["nodes"]
        if each["id"] != but
    ]


def test_one_version_has_no_selector(site: Path) -> None:
    """`make docs` builds pages without the selector of versions and its scripts."""
    text = (site / "index.html").read_text()
    assert "docs-versions" not in text
    assert "versions.js" not in text


class Repository:
    """A repository with small documentation that has this project's templates and scripts."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.output = folder / "docs" / "_build" / "versions"
        folder.mkdir(exist_ok=True)
        self.git("init", "--quiet")

    def git(self, *words: str) -> None:
        """Run git."""
        name = ("-c", "user.name=Ada", "-c", "user.email=ada@example.com")
        subprocess.run(["git", *name, *words], cwd=self.folder, check=True)

    def commit(self, files: dict[str, str], tag: str = "") -> None:
        """Commit these files alone, and tag the commit."""
        shutil.rmtree(self.folder / "docs", ignore_errors=True)
        for name, text in files.items():
            file = self.folder / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", "--message", "Change the documentation")
        if tag:
            self.git("tag", tag)

    def commit_docs(self, *names: str, tag: str = "") -> None:
        """Commit documentation with pages of these names besides the first one."""
        links = "\n".join(names)
        index = f"# Home\n\n```{{toctree}}\n{links}\n```\n"
        files = {f"docs/{name}.md": f"# {name}\n\nText of {tag or 'dev'}.\n" for name in names}
        ours = [*(DOCS / "_templates").rglob("*.html"), *(DOCS / "_static").glob("version*")]
        for file in ours:
            files[f"docs/{file.relative_to(DOCS)}"] = file.read_text()
        self.commit({"docs/conf.py": CONF, "docs/index.md": index, **files}, tag)

    def build(self, *words: str) -> str:
        """Build the site; return what the tool printed."""
        tool = ROOT / "tools" / "docs_versions.py"
        run = subprocess.run(
            [sys.executable, tool, "--repository", self.folder, *words],
            capture_output=True,
            text=True,
        )
        assert run.returncode == 0, run.stderr
        return run.stdout

    def address(self, page: str) -> str:
        """Return the address of a page, which is opened as a file."""
        return (self.output / f"{page}.html").as_uri()


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    """A site with two releases, of which the newer one is not the last tag."""
    made = Repository(tmp_path_factory.mktemp("versions") / "shop")
    made.commit({"README.md": "Before the documentation"}, tag="0.1.1")
    made.commit_docs("how-to/old", "how-to/same", tag="1.9.0")
    made.commit_docs("how-to/same", "how-to/new", tag="v1.10.0")
    made.git("tag", "nightly")
    made.commit_docs("how-to/same", "how-to/new", "how-to/newest")
    made.build("--base-url", "https://shop.example/docs/")
    return made


def versions(page: Page) -> dict[str, str]:
    """Return the links of the selector by their texts, from the directory of the site."""
    links = page.locator(".docs-versions a")
    found = links.evaluate_all("all => all.map(a => [a.textContent, a.href])")
    return {text: re.sub(r".*/_build/versions/", "", address) for text, address in found}


def test_the_selector_leads_to_the_same_page_of_another_version(
    repository: Repository, browser: Browser
) -> None:
    """A page that another version does not have leads to the first page of that version."""
    with opened(browser, viewport=DESK) as page:
        page.goto(repository.address("dev/how-to/same"))
        assert versions(page) == {
            "1.10.0 (newest)": "stable/how-to/same.html",
            "1.9.0": "1.9.0/how-to/same.html",
            "dev": "dev/how-to/same.html",
        }
        page.goto(repository.address("1.9.0/how-to/old"))
        assert versions(page) == {
            "1.10.0 (newest)": "stable/index.html",
            "1.9.0": "1.9.0/how-to/old.html",
            "dev": "dev/index.html",
        }


def test_the_selector_works_with_the_keyboard(repository: Repository, browser: Browser) -> None:
    """Enter opens it, Tab goes to a version, and Enter leads there."""
    with opened(browser, viewport=DESK) as page:
        page.goto(repository.address("1.9.0/how-to/same"))
        page.locator(".docs-versions summary").focus()
        page.keyboard.press("Enter")
        expect(page.get_by_role("link", name="1.10.0 (newest)")).to_be_visible()
        expect(page.locator(".docs-versions a[aria-current]")).to_have_text("1.9.0")
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        expect(page).to_have_url(repository.address("stable/how-to/same"))
        expect(page.get_by_text("Text of v1.10.0.")).to_be_visible()


@pytest.mark.parametrize("viewport", [DESK, PHONE], ids=["desk", "phone"])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_banner_names_the_newest_release(
    repository: Repository, browser: Browser, scheme: str, viewport: dict[str, int]
) -> None:
    """Pages of old versions and of the development version link to it; its own pages do not."""
    with opened(browser, viewport=viewport, color_scheme=scheme) as page:
        for version, words in (
            ("1.9.0", "This page is about version 1.9.0. The newest release is 1.10.0."),
            ("dev", "This page is about the development version. The newest release is 1.10.0."),
        ):
            page.goto(repository.address(f"{version}/how-to/same"))
            banner = page.locator(".docs-banner")
            expect(banner).to_have_text(words)
            assert violations(page, ".docs-banner") == []
            assert page.evaluate("document.documentElement.scrollWidth") <= viewport["width"]
            banner.get_by_role("link").click()
            expect(page).to_have_url(repository.address("stable/how-to/same"))
            expect(page.locator(".docs-versions")).to_be_attached()
            expect(page.locator(".docs-banner")).to_have_count(0)


def test_search_engines_are_referred_to_the_newest_release(repository: Repository) -> None:
    """The canonical link of a page is its address in the directory `stable`."""
    for version in ("1.9.0", "1.10.0", "stable", "dev"):
        text = (repository.output / version / "how-to" / "same.html").read_text()
        link = '<link rel="canonical" href="https://shop.example/docs/stable/how-to/same.html">'
        assert link in text
    first = (repository.output / "index.html").read_text()
    assert '<link rel="canonical" href="https://shop.example/docs/stable/">' in first


def test_the_first_page_leads_to_the_newest_release(
    repository: Repository, browser: Browser
) -> None:
    """The site's own address shows the newest release."""
    with opened(browser) as page:
        page.goto(repository.address("index"))
        expect(page).to_have_url(repository.address("stable/index"))


def test_a_release_is_built_once(repository: Repository, tmp_path: Path) -> None:
    """Later builds add new releases, which the old ones list; moved tags are built again."""
    subprocess.run(["git", "clone", "--quiet", repository.folder, tmp_path / "shop"], check=True)
    copy = Repository(tmp_path / "shop")
    assert copy.build().splitlines()[:4] == [
        "Skipped 0.1.1: it has no docs/conf.py.",
        "Building 1.10.0.",
        "Building 1.9.0.",
        "Building dev.",
    ]
    copy.git("tag", "2.0.0")
    copy.git("tag", "--force", "1.9.0")
    assert copy.build().splitlines()[1:5] == [
        "Building 2.0.0.",
        "Kept 1.10.0.",
        "Building 1.9.0.",
        "Building dev.",
    ]
    script = (copy.output / "versions.js").read_text()
    listed = json.loads(script.removeprefix("window.DOCS_VERSIONS = ").rstrip(";\n"))
    assert [each["name"] for each in listed if each["newest"]] == ["2.0.0"]
    assert [each["name"] for each in listed] == ["2.0.0", "1.10.0", "1.9.0", "dev"]


def test_a_site_without_releases_has_the_development_version(tmp_path: Path) -> None:
    """The first page leads to it, and nothing is called newest."""
    made = Repository(tmp_path / "shop")
    made.commit_docs("how-to/same")
    made.build()
    assert "url=dev/index.html" in (made.output / "index.html").read_text()
    assert not (made.output / "stable").exists()
    assert '"newest":true' not in (made.output / "versions.js").read_text()
