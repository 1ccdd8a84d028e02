"""A project that was written for 0.1.1, run with either version on a database of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import redis
from django.db import connections

from tests.support.redis_server import shared_url
from tests.support.workers import place_of

from .old_version import old_python

PROJECT = Path(__file__).resolve().parent / "project"
SOURCES = Path(__file__).resolve().parents[2] / "src"


class Project:
    """The project in one database, with streams of its own; its code is the same all the time."""

    def __init__(self, place: dict[str, Any], folder: Path, *, use_tz: bool = True) -> None:
        url = urlsplit(shared_url())
        self.stream = f"upgrade-{uuid4()}"
        self._redis = redis.Redis.from_url(shared_url(), decode_responses=True)
        self._folder = folder
        told = {
            "database": place,
            "use_tz": use_tz,
            "stream": self.stream,
            "redis": {
                "host": url.hostname,
                "port": url.port,
                "db": int(url.path.strip("/") or 0),
                "password": url.password,
            },
        }
        kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        self._env = {**kept, "UPGRADE_TEST": json.dumps(told), "PYTHONDONTWRITEBYTECODE": "1"}

    def old(self, *arguments: str) -> str:
        """Run a command with 0.1.1; return what it printed."""
        return self._run([str(old_python()), "manage.py", *arguments], self._env)

    def new(self, *arguments: str) -> str:
        """Run a command with this version; return what it printed."""
        env = {**self._env, "PYTHONPATH": str(SOURCES)}
        return self._run([sys.executable, "manage.py", *arguments], env)

    def old_script(self, script: str) -> str:
        """Run Python with 0.1.1 in the project; return what it printed."""
        return self.old("shell", "--no-imports", "--command", script)

    def start_old_script(self, script: str, *arguments: str) -> subprocess.Popen[bytes]:
        """Start Python with 0.1.1 in the project."""
        setup = "import os, sys, django; django.setup(); sys.path.insert(0, '.')\n"
        env = {**self._env, "DJANGO_SETTINGS_MODULE": "mysite.settings", "PYTHONPATH": "."}
        command = [str(old_python()), "-c", setup + script, *arguments]
        return subprocess.Popen(command, cwd=PROJECT, env=env)

    def entries(self, suffix: str = "") -> list[dict[str, Any]]:
        """Return the events in a stream as they arrived, with `event_id` of the entry."""
        found = self._redis.xrange(f"{self.stream}{suffix}")
        events = [{**fields, **json.loads(fields["cloud_event"])} for _, fields in found]
        for event in events:
            del event["cloud_event"]
        assert all(event["event_id"] == event["id"] for event in events)
        return events

    def listed(self) -> list[dict[str, Any]]:
        """Return what the project's own backend was given."""
        return [json.loads(each) for each in self._redis.lrange(f"{self.stream}-list", 0, -1)]

    def handled(self) -> list[str]:
        """Return what the project's handlers have written down."""
        return list(self._redis.lrange(f"{self.stream}-list-handled", 0, -1))

    def count(self) -> int:
        """Return how many events the handler of all events has counted."""
        return int(self._redis.get(f"{self.stream}-list-count") or 0)

    def forget(self) -> None:
        """Delete the streams."""
        for key in self._redis.keys(f"{self.stream}*"):
            self._redis.delete(key)
        self._redis.close()

    def _run(self, command: list[str], env: dict[str, str]) -> str:
        done = subprocess.run(
            command, cwd=PROJECT, env=env, capture_output=True, text=True, check=False, timeout=120
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@contextmanager
def project_on(alias: str, folder: Path, **options: Any) -> Iterator[Project]:
    """Give the project on a new database beside a test database."""
    place = place_of(alias)
    name = str(folder / "db.sqlite3")
    if connections[alias].vendor == "sqlite":
        project = Project({**place, "NAME": name}, folder, **options)
        try:
            yield project
        finally:
            project.forget()
        return
    name = f"{place['NAME']}_upgrade"
    project = Project({**place, "NAME": name}, folder, **options)
    quoted = connections[alias].ops.quote_name(name)
    with connections[alias].cursor() as cursor:
        cursor.execute(f"DROP DATABASE IF EXISTS {quoted}")
        cursor.execute(f"CREATE DATABASE {quoted}")
    try:
        yield project
    finally:
        project.forget()
        with connections[alias].cursor() as cursor:
            cursor.execute(f"DROP DATABASE IF EXISTS {quoted}")
