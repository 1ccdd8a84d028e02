"""What happens when Django starts: logs are masked, checks registered, and handlers found."""

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
        # The checks reach the models, which can be imported from here on.
        from . import publishing  # noqa: F401  # which fills in what the model inserts
        from .checks import register_checks
        from .redaction import mask_logs
        from .upgrade import remember_output

        mask_logs()
        register_checks()
        pre_migrate.connect(remember_output, sender=self, dispatch_uid="django_broadcaster.upgrade")
        autodiscover_modules("event_handlers")
