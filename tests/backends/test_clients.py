"""The brokers' clients: loaded at first use, and missed by name."""

from __future__ import annotations

import subprocess
import sys

import pytest

from django_broadcaster.backends import MessageBackend
from django_broadcaster.exceptions import MissingClient
from django_broadcaster.testing import make_message

from .test_options import NEEDED, backend_classes

over_clients = pytest.mark.parametrize(
    "backend",
    [pytest.param(each, id=each.__name__) for each in backend_classes() if each.client_library],
)


@over_clients
def test_missing_client_names_the_extra(
    backend: type[MessageBackend], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without its client, publishing says what to install, and the health check is False."""
    assert backend.client_library is not None
    client, extra = backend.client_library
    for name in {client, *(each for each in sys.modules if each.startswith(f"{client}."))}:
        monkeypatch.setitem(sys.modules, name, None)
    without = backend(alias="default", **NEEDED.get(backend.__name__, {}))
    with pytest.raises(MissingClient, match=rf"django-broadcaster\[{extra}\]"):
        without.send(make_message())
    assert without.health_check() is False


@over_clients
def test_importing_loads_no_client(backend: type[MessageBackend]) -> None:
    """A client is loaded at first use, not when its backend is imported or made."""
    assert backend.client_library is not None
    code = (
        f"import sys; from django_broadcaster.backends import {backend.__name__} as backend; "
        f"backend(alias='default', **{NEEDED.get(backend.__name__, {})!r}); "
        f"sys.exit({backend.client_library[0]!r} in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
