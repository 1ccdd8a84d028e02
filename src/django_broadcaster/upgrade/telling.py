"""Where `migrate` prints: Django tells it to receivers of `pre_migrate`, not to migrations."""

from __future__ import annotations

from typing import Any

_outputs: dict[str, Any] = {}


def remember_output(*, using: str, verbosity: int, stdout: Any = None, **_: Any) -> None:
    """Receive `pre_migrate`: note where it prints, or that it is to be quiet."""
    _outputs[using] = stdout if verbosity >= 1 else None


def stdout_of_migrate(using: str) -> Any:
    """Return the stream that `migrate` prints to on that database, or None."""
    return _outputs.get(using)
