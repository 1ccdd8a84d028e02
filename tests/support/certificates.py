"""Certificates that the tests make for themselves."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from .redis_server import missing


def make_certificates(folder: Path) -> Path:
    """Make a CA (ca.pem), and of it one for the server 127.0.0.1 and one for a client.

    `other.pem` is another CA, which signed nothing. Each has its `.key` beside it.
    """
    for name in ("ca", "other"):
        usage = "keyUsage=critical,keyCertSign,cRLSign"  # Python 3.13 requires it
        files = ("-keyout", f"{name}.key", "-out", f"{name}.pem")
        _openssl(folder, "req", "-x509", "-subj", f"/CN={name}", "-addext", usage, *files)
    extensions = "subjectAltName=IP:127.0.0.1\nauthorityKeyIdentifier=keyid\n"
    (folder / "extensions.txt").write_text(extensions)
    for name in ("server", "client"):
        files = ("-keyout", f"{name}.key", "-out", f"{name}.csr")
        _openssl(folder, "req", "-subj", f"/CN={name}", *files)
        _openssl(
            folder, "x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key",
            "-CAcreateserial", "-extfile", "extensions.txt", "-days", "2", "-out", f"{name}.pem",
        )  # fmt: skip
    return folder


def _openssl(folder: Path, command: str, *arguments: str) -> None:
    program = shutil.which("openssl") or missing("the program openssl")
    new = ("-newkey", "rsa:2048", "-nodes") if command == "req" else ()
    subprocess.run(
        [program, command, *new, *arguments], cwd=folder, check=True, capture_output=True
    )
