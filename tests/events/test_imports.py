"""What importing the package needs and loads."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from django_broadcaster import events


def test_imports_without_setup_or_sdk() -> None:
    """The package works before django.setup(), without settings, and does not load the SDK."""
    code = """
import sys
from django.conf import settings
from django_broadcaster.events import CloudEvent
raw = CloudEvent(event_type="t", source="s", data={"a": 1}).to_json()
assert CloudEvent.from_json(raw).data == {"a": 1}
assert "cloudevents" not in sys.modules
assert not settings.configured
"""
    environment = {k: v for k, v in os.environ.items() if k != "DJANGO_SETTINGS_MODULE"}
    environment["PYTHONPATH"] = str(Path(events.__file__).parents[2])
    subprocess.run([sys.executable, "-W", "error", "-c", code], env=environment, check=True)
