"""The process in which the Python examples of one page run, one after the other.

Reads one JSON object a line (`kind`, `source`, `place`, `line`), runs it in the page's namespace
and answers with one: the error, or an empty text. Standard library and Django only.
"""

from __future__ import annotations

import contextlib
import doctest
import io
import json
import sys
import traceback
from typing import Any

import django

FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def main() -> None:
    """Answer until the other side hangs up."""
    sys.path[0] = ""  # the project, not the folder of this file
    django.setup()
    answers, sys.stdout = sys.stdout, io.StringIO()
    namespace: dict[str, Any] = {"__name__": "shop.example"}
    for request in map(json.loads, sys.stdin):
        print(json.dumps(_run(namespace, **request)), file=answers, flush=True)


def _run(namespace: dict[str, Any], kind: str, source: str, place: str, line: int) -> str:
    output = io.StringIO()
    try:
        with contextlib.redirect_stdout(output):
            if kind == "pycon":
                return _compare(namespace, source, place, line)
            # Empty lines in front: a traceback shows the lines of the page.
            exec(compile("\n" * line + source, place, "exec"), namespace)  # noqa: S102
    except BaseException:
        return f"{output.getvalue()}\n{traceback.format_exc()}"
    return ""


def _compare(namespace: dict[str, Any], source: str, place: str, line: int) -> str:
    """Run what stands behind `>>>` and compare what it prints; return the differences."""
    test = doctest.DocTestParser().get_doctest(source, {}, place, place, line)
    test.globs = namespace
    differences = io.StringIO()
    runner = doctest.DocTestRunner(optionflags=FLAGS)
    runner.run(test, out=differences.write, clear_globs=False)
    return differences.getvalue()


if __name__ == "__main__":
    main()
