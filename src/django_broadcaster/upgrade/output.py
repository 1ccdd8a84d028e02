"""The output stream of `migrate`, which only receivers of `pre_migrate` get from Django."""

from __future__ import annotations

from typing import Any

_outputs: dict[str, Any] = {}


def remember_output(*, using: str, verbosity: int, stdout: Any = None, **_: Any) -> None:
    """Receive `pre_migrate`, and store its output stream, or None if `migrate` is quiet."""
    _outputs[using] = stdout if verbosity >= 1 else None


def stdout_of_migrate(using: str) -> Any:
    """Return the output stream of `migrate` for a database, or None."""
    return _outputs.get(using)
