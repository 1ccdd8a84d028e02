// The selector of versions, and the banner above the pages of a version that is not the newest one.
//
// ../versions.js, which tools/docs_versions.py writes, sets DOCS_VERSIONS. A script is loaded where JSON
// can't be: from pages that are opened as files.
(() => {
  const nav = document.querySelector(".docs-versions");
  const versions = window.DOCS_VERSIONS;
  if (!nav || !versions) return;

  const { version, page, root } = nav.dataset;
  const newest = versions.find((each) => each.newest);

  // The same page of another version, or its first page where it has no such page.
  function address(other) {
    const file = other.pages.includes(page) ? page : "index";
    return `${root}${other.newest ? "stable" : other.name}/${file}.html`;
  }

  function link(other, text) {
    const found = document.createElement("a");
    found.href = address(other);
    found.textContent = text;
    return found;
  }

  for (const each of versions) {
    const item = document.createElement("li");
    const found = link(each, each.newest ? `${each.name} (newest)` : each.name);
    if (each.name === version) found.setAttribute("aria-current", "true");
    item.append(found);
    nav.querySelector("ul").append(item);
  }
  nav.hidden = false;

  if (newest && newest.name !== version) {
    const what = version === "dev" ? "the development version" : `version ${version}`;
    const text = document.createElement("aside");
    text.className = "announcement-content";
    text.setAttribute("aria-label", "Version of this page");
    text.append(`This page is about ${what}. The newest release is `, link(newest, newest.name), ".");
    const banner = document.createElement("div");
    banner.className = "announcement docs-banner";
    banner.append(text);
    document.querySelector(".page").before(banner);
  }
})();
