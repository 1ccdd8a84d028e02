"""The runs of tasks: when and where each task ran, and with what result."""

from __future__ import annotations

from django.db import models
from django.utils.translation import gettext_lazy as _


class OutboxTaskRun(models.Model):
    """A task of `OutboxTaskBackend` that a relay has begun; `task_id` is the id of its event.

    `task`, `backend` and `identity` are the event's type, backend and identity.
    `outcome` is JSON text with the return value and the errors of failed attempts. If payloads are
    encrypted, it is in `sealed` instead.
    """

    id = models.BigAutoField(primary_key=True)
    task_id = models.CharField(max_length=255)
    task = models.CharField(max_length=255)
    backend = models.CharField(max_length=64)
    identity = models.CharField(max_length=64)
    started_at = models.DateTimeField()
    last_attempted_at = models.DateTimeField()
    finished_at = models.DateTimeField(null=True, help_text=_("When the task returned."))
    is_running = models.BooleanField()
    worker_ids = models.JSONField(help_text=_("The relay of each attempt."))
    outcome = models.TextField(blank=True, default="")
    sealed = models.BinaryField(null=True, editable=False)

    class Meta:
        verbose_name = _("task run")
        verbose_name_plural = _("task runs")
        constraints = [models.UniqueConstraint(fields=["task_id"], name="broadcaster_task_run")]

    def __str__(self) -> str:
        return f"run of task {self.task_id}"
