"""Lets a client send what it was given, also where OpenTelemetry instruments it.

An instrumented client writes the trace of its own span into what it sends. The `traceparent` of an
event is that of its creation, so that would replace it, or add a second one.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def uninstrumented() -> Iterator[None]:
    """Switch the instrumentation of clients off for a block, in this thread and context.

    https://github.com/open-telemetry/opentelemetry-python-contrib names the key.
    """
    context = sys.modules.get("opentelemetry.context")
    if context is None:
        yield
        return
    token = context.attach(context.set_value("suppress_instrumentation", True))
    try:
        yield
    finally:
        context.detach(token)
