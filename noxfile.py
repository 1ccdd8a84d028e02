"""The suite on every supported pair of Python and Django, against the built wheel.

    nox                                    # all pairs (make test-matrix, with the servers at hand)
    nox --tags newest                      # or oldest
    nox -s "tests(3.12, django 6.0)"       # one pair; words after -- go to pytest
    nox -s themes                          # the admin's pages in the themes Unfold and Jazzmin

A pair whose interpreter this machine lacks is named where it would run and again in the summary at
the end; in CI it fails (nox's own rule: `--no-error-on-missing-interpreters` turns that off).
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import nox

PAIRS = [
    ("3.11", "5.2"),
    ("3.12", "5.2"),
    ("3.12", "6.0"),
    ("3.12", "6.1"),
    ("3.13", "5.2"),
    ("3.13", "6.0"),
    ("3.13", "6.1"),
]
TAGS = {PAIRS[0]: ["oldest"], PAIRS[-1]: ["newest"]}

nox.options.sessions = ["tests"]
nox.needs_version = ">=2025.5.1"


def _answers(program: str, version: str) -> bool:
    """Whether `program` is that Python: a pyenv shim exists for versions that it does not run."""
    print_version = "import sys; print('%d.%d' % sys.version_info[:2])"
    try:
        found = subprocess.run(
            [program, "-c", print_version], capture_output=True, text=True, check=False
        )
    except OSError:
        return False
    return found.stdout.strip() == version


def _folder_of_python(version: str) -> Path | None:
    """Where that Python really is: on the PATH, or among pyenv's versions, active or not."""
    name = f"python{version}"
    root = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    on_path = [Path(folder, name) for folder in os.get_exec_path()]
    for program in [*on_path, *sorted(root.glob(f"versions/{version}.*/bin/{name}"), reverse=True)]:
        if program.exists() and _answers(str(program), version):
            return program.parent
    return None


# nox looks on the PATH, where the folders of the interpreters that really run come first now.
_FOLDERS = dict.fromkeys(_folder_of_python(version) for version in dict(PAIRS))
os.environ["PATH"] = os.pathsep.join([str(f) for f in _FOLDERS if f] + os.get_exec_path())


def _groups(project: dict[str, object]) -> list[str]:
    """What the tests need, Sphinx included; the MariaDB driver only where it can be compiled."""
    groups = ["test", "docs"]
    headers = subprocess.run([sys.executable, "tools/services.py", "headers"], check=False)
    if headers.returncode == 0:
        groups.append("mariadb")
    return nox.project.dependency_groups(project, *groups)


@nox.session
@nox.parametrize(
    ("python", "django"),
    [
        nox.param(*pair, id=f"{pair[0]}, django {pair[1]}", tags=TAGS.get(pair, []))
        for pair in PAIRS
    ],
)
def tests(session: nox.Session, django: str) -> None:
    """Run the suite, and see that no migration is missing."""
    requirements = _groups(nox.project.load_toml("pyproject.toml"))
    session.install(".[all]", f"django~={django}.0", *requirements)
    session.run("python", "tests/manage.py", "makemigrations", "--check", "--dry-run")
    session.run("python", "-m", "pytest", "--numprocesses=4", *session.posargs)


@nox.session(python=PAIRS[-1][0])
@nox.parametrize("theme", ["unfold", "jazzmin"])
def themes(session: nox.Session, theme: str) -> None:
    """Look at every page of the admin in a theme."""
    requirements = _groups(nox.project.load_toml("pyproject.toml"))
    session.install(".[all]", f"django-{theme}", *requirements)
    environment = {"BROADCASTER_ADMIN_THEME": theme, "BROADCASTER_TEST_DATABASES": "sqlite"}
    session.run("python", "-m", "pytest", "tests/dashboard/test_themes.py", env=environment)
