"""Settings as the documentation shows them, for tests that run with exactly those."""

from __future__ import annotations

import ast
from typing import Any

from tests.support.docs_runner import ROOT, blocks_of

RUN_THE_RELAY = ROOT / "docs" / "how-to" / "run-the-relay.md"
BEHIND_PGBOUNCER = "needs PgBouncer; other tests run with it"
FAR_DATABASE = "needs PostgreSQL; other tests run with it"


def shown(reason: str) -> Any:
    """Return the value that the block with that reason for not being run assigns."""
    (block,) = [block for block in blocks_of(RUN_THE_RELAY) if block.not_run == reason]
    (assignment,) = ast.parse(block.text).body
    assert isinstance(assignment, ast.Assign)
    return ast.literal_eval(assignment.value)
