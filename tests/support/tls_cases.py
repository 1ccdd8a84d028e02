"""The option `tls` as every backend takes it: right, or wrong in each way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

SERVER_CASES = ("another CA", "no CA file", "the system's CAs", "another name", "no TLS")
"""Faults of TLS if the server wants no certificate of a client."""

CASES = (*SERVER_CASES, "no certificate")
"""Faults of TLS if the server wants a certificate."""


def tls_options(certificates: Path, case: str | None) -> dict[str, Any]:
    """Return the option, wrong in that way, or right for None.

    The name is wrong by `host_of`.
    """
    if case in ("no TLS", "the system's CAs"):
        return {"tls": True} if case == "the system's CAs" else {}
    authority = {"another CA": "other.pem", "no CA file": "missing.pem"}.get(case or "", "ca.pem")
    files = {"ca_file": authority}
    if case != "no certificate":
        files |= {"cert_file": "client.pem", "key_file": "client.key"}
    return {"tls": {name: str(certificates / file) for name, file in files.items()}}


def host_of(case: str | None) -> str:
    """Return the host to connect to: the certificate is for 127.0.0.1."""
    return "localhost" if case == "another name" else "127.0.0.1"
