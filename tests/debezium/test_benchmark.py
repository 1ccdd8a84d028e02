"""The benchmark of the relay beside Kafka Connect, and the page that has its figures."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys

import pytest

from tests.support.docs_runner import ROOT
from tests.support.own_servers import OwnDatabase

PAGE = ROOT / "docs" / "explanation" / "kafka-connect.md"
MEASURED = re.compile(r"^\| ((?:at least once|each event once): [^|]+) \|", re.MULTILINE)


@pytest.mark.chaos
@pytest.mark.long
@pytest.mark.timeout(900)
def test_the_benchmark_measures_what_the_page_has(postgres: OwnDatabase) -> None:
    """A run with few events has each figure of the page's table, for the relay and for Connect."""
    environment = {
        **os.environ,
        "BROADCASTER_POSTGRES_URL": postgres.instance.url,
        "BENCH_NAME": "bench",
    }
    environment.pop("DJANGO_SETTINGS_MODULE")
    command = [sys.executable, "-m", "benchmarks", "kafka", "--runs=1", "--events=500", "--json"]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-4000:]
    figures = {figure["name"]: figure for figure in json.loads(done.stdout)}
    assert list(figures) == MEASURED.findall(PAGE.read_text())
    for name, figure in figures.items():
        if not re.search("processor|idle", name):  # these may be below a tick of the clock
            assert figure["ours"] > 0, name
            assert figure["bare"] > 0, name
