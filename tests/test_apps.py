"""What happens when Django starts."""

import sys
from pathlib import Path

import pytest
from django.apps import apps
from django.conf import settings
from django.test import override_settings

from django_broadcaster.registry import event_registry

APP = "app_with_handlers"
HANDLERS = """
from django_broadcaster.registry import event_registry

@event_registry.register("order.placed")
def greet(event):
    pass
"""


def test_event_handlers_of_each_app_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An app's `event_handlers.py` is imported when Django starts, without a line of set-up."""
    package = tmp_path / APP
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "event_handlers.py").write_text(HANDLERS)
    monkeypatch.syspath_prepend(tmp_path)
    try:
        with override_settings(INSTALLED_APPS=[*settings.INSTALLED_APPS, APP]):
            names = [handler.name for handler in event_registry]
        assert f"{APP}.event_handlers.greet" in names
    finally:
        event_registry.unregister(f"{APP}.event_handlers.greet")
        for module in (APP, f"{APP}.event_handlers"):
            sys.modules.pop(module, None)


def test_names_of_models_say_whose_they_are() -> None:
    """`manage.py shell` imports all models by name: none of ours hides a project's `Relay`."""
    models = apps.get_app_config("django_broadcaster").get_models()
    names = [model.__name__ for model in models]
    assert len(names) > 9
    assert [name for name in names if not name.startswith(("Outbox", "Inbox"))] == []
