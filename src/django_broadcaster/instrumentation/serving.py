"""Serves the metrics of a relay while it works: of one process, or of several together."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

MULTIPROCESS = "PROMETHEUS_MULTIPROC_DIR"
"""prometheus-client's own variable; it has to be set before a process imports the library."""


@contextmanager
def counting() -> Iterator[None]:
    """Count what the relay of this process does; another process serves it."""
    from .prometheus import install

    install()
    yield


@contextmanager
def serving(port: int, using: str, *, several: bool) -> Iterator[None]:
    """Serve metrics on a port; with `several`, those that the child processes leave in a folder."""
    with tempfile.TemporaryDirectory(prefix="outbox-metrics-") as folder:
        from .prometheus import install, serve

        if several:  # for the children: this process has imported the library without it
            os.environ[MULTIPROCESS] = folder
        else:
            install()
        server = serve(port, using=using, folder=folder if several else None)
        try:
            yield
        finally:
            os.environ.pop(MULTIPROCESS, None)
            server.shutdown()
            server.server_close()
