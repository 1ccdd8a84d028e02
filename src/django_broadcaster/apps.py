"""The app's configuration: at startup, mask logs, register checks and import handlers."""

from __future__ import annotations

from django.apps import AppConfig
from django.db.models.signals import pre_migrate
from django.utils.module_loading import autodiscover_modules
from django.utils.translation import gettext_lazy as _


class BroadcasterConfig(AppConfig):
    """The app `django_broadcaster`."""

    name = "django_broadcaster"
    label = "django_broadcaster"
    verbose_name = _("Broadcaster")
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Mask the logs, register the system checks, and import each app's `event_handlers.py`."""
        # Models, which the checks use, can't be imported earlier.
        from . import publishing  # noqa: F401  # connects the receivers of `rows_to_insert`
        from .checks import register_checks
        from .redaction import mask_logs
        from .upgrade import remember_output

        mask_logs()
        register_checks()
        pre_migrate.connect(remember_output, sender=self, dispatch_uid="django_broadcaster.upgrade")
        autodiscover_modules("event_handlers")
