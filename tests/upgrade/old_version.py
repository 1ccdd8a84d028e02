"""The real 0.1.1 from PyPI, in an environment of its own under `.cache`."""

from __future__ import annotations

import subprocess
import sys
from fcntl import LOCK_EX, flock
from functools import cache
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

from tests.support.redis_server import missing

CACHE = Path(__file__).resolve().parents[2] / ".cache"
PACKAGES = [
    "django-broadcaster==0.1.1",
    "Django==5.2.*",
    "psycopg[binary]>=3.2",
    "redis>=5.3",
    *(["mysqlclient>=2.2.1"] if find_spec("MySQLdb") else []),
]


@cache
def old_python() -> Path:
    """Return the interpreter of an environment with 0.1.1; make it at the first call.

    It stays for later runs. Several processes of a run may ask for it at the same time.
    """
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    drivers = "mysql" if find_spec("MySQLdb") else "plain"
    folder = CACHE / "upgrade" / f"0.1.1-python{version}-{drivers}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    complete = folder / "complete"
    with (folder.parent / f"{folder.name}.lock").open("w") as lock:
        flock(lock, LOCK_EX)
        if not complete.exists():
            _make(folder)
            complete.touch()
    return next(folder.glob("*/python"))


def _make(folder: Path) -> None:
    commands = [
        [sys.executable, "-m", "venv", "--clear", str(folder)],
        [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", *PACKAGES],
    ]
    for command in commands:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
        if done.returncode:
            missing(f"django-broadcaster 0.1.1 from PyPI: {done.stderr[-300:]}")


@cache
def old_migration() -> ModuleType:
    """Return the module of 0.1.1's only migration."""
    [path] = old_python().parent.parent.glob(
        "lib/*/site-packages/django_broadcaster/migrations/0001_initial.py"
    )
    spec = spec_from_file_location("migration_of_0_1_1", path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
