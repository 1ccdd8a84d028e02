"""The form of an operation: a kind of operation, and conditions that select events."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC
from typing import TYPE_CHECKING, Any

from django import forms
from django.utils.timezone import get_current_timezone_name
from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext

from django_broadcaster.backends.handler import backends
from django_broadcaster.inbox_replay import skippable_handlers
from django_broadcaster.models import OutboxPartition
from django_broadcaster.models.selection import EventSelection
from django_broadcaster.registry import event_registry
from django_broadcaster.states import OperationKind, OutboxEventStatus
from django_broadcaster.store import MOVES

if TYPE_CHECKING:
    from django.utils.functional import _StrPromise

MEANINGS: dict[str, _StrPromise] = {
    OperationKind.RETRY: _("Dead events, and those that wait for a retry, are retried now."),
    OperationKind.REPLAY: _("Delivered, dead and cancelled events are delivered again."),
    OperationKind.CANCEL: _("Events that have not been delivered are cancelled."),
    OperationKind.PURGE: _("Delivered, dead and cancelled events are deleted."),
}
"""A sentence about each kind of operation."""

CONDITIONS = ("backend", "status", "event_type", "key", "source", "since", "until", "error")
ANY = [("", _("any"))]


class _Moment(forms.DateTimeInput):
    """The browser's own control, which works without a script, by keyboard and on a phone."""

    input_type = "datetime-local"

    def __init__(self) -> None:
        super().__init__(attrs={"step": 1}, format="%Y-%m-%dT%H:%M:%S")


class HandlersForm(forms.Form):
    """The handlers that a replay may skip, as tick boxes: those that are ticked run again."""

    forget_inbox = forms.MultipleChoiceField(
        label=_("Run these handlers again"), required=False, widget=forms.CheckboxSelectMultiple
    )

    def offer(self, names: Sequence[str]) -> None:
        """Set the handlers to choose from."""
        field: Any = self.fields["forget_inbox"]
        field.choices = [(name, name) for name in names]

    @property
    def handlers(self) -> forms.BoundField | None:
        """The tick boxes; None without a handler."""
        field: Any = self.fields["forget_inbox"]
        return self["forget_inbox"] if field.choices else None


class OperationForm(HandlersForm):
    """An operation. Once the form is valid, `selection` has its conditions."""

    kind = forms.ChoiceField(label=_("Operation"), widget=forms.RadioSelect)
    everything = forms.BooleanField(
        label=_("All eligible events"),
        required=False,
        help_text=_("Ignores the filters below."),
    )
    backend = forms.ChoiceField(label=_("Backend"), required=False)
    status = forms.ChoiceField(
        label=_("Status"), required=False, choices=[*ANY, *OutboxEventStatus.choices]
    )
    event_type = forms.CharField(
        label=_("Event type"),
        required=False,
        max_length=255,
        help_text=_("Exact, or a pattern such as order.* with the asterisk at its end."),
    )
    key = forms.CharField(
        label=_("Partition key"), required=False, max_length=255, strip=False, help_text=_("Exact.")
    )
    source = forms.CharField(
        label=_("Source"), required=False, max_length=512, help_text=_("Exact.")
    )
    since = forms.DateTimeField(
        label=_("Created since"),
        required=False,
        widget=_Moment,
        help_text=_("The time at which the event was written to the outbox."),
    )
    until = forms.DateTimeField(
        label=_("Created before"), required=False, widget=_Moment, help_text=_("Exclusive.")
    )
    error = forms.CharField(
        label=_("Error"),
        required=False,
        max_length=500,
        strip=False,
        help_text=_("Part of the last error."),
    )

    def __init__(self, *args: Any, kinds: Sequence[str], using: str, **options: Any) -> None:
        super().__init__(*args, **options)
        self.selection = EventSelection()
        zone = get_current_timezone_name()
        for name in ("since", "until"):
            self.fields[name].label = f"{self.fields[name].label} ({zone})"
        choices: Any = self.fields
        choices["kind"].choices = [(kind, OperationKind(kind).label.capitalize()) for kind in kinds]
        self.offer([each.name for each in event_registry])
        choices["backend"].choices = [*ANY, *((alias, alias) for alias in _aliases(using))]

    @property
    def kinds(self) -> list[tuple[Any, _StrPromise]]:
        """The choices of the operation, each with its meaning."""
        return [(choice, MEANINGS[choice.data["value"]]) for choice in self["kind"]]

    @property
    def conditions(self) -> list[forms.BoundField]:
        """The fields that filter the events."""
        return [self[name] for name in CONDITIONS]

    def clean_event_type(self) -> str:
        """Return the pattern; raise ValidationError for an asterisk before its end."""
        value: str = self.cleaned_data["event_type"]
        if "*" in value[:-1]:
            raise forms.ValidationError(_("An asterisk is allowed at the end only."))
        return value

    def clean(self) -> dict[str, Any]:
        """Validate the fields together, and set `selection`."""
        data: dict[str, Any] = self.cleaned_data
        self._check_moments(data)
        self._check_status(data.get("kind"), data.get("status"))
        found = {name: data[name] for name in CONDITIONS if data.get(name)}
        if data.get("everything") and found:
            self.add_error(
                "everything", _("Clear this box, or clear the filters below: not both can apply.")
            )
        if not self.errors and not found and not data.get("everything"):
            raise forms.ValidationError(_("Add a filter, or tick “All eligible events”."))
        self.selection = EventSelection(**found)
        self._limit_handlers(data)
        return data

    def _limit_handlers(self, data: dict[str, Any]) -> None:
        """Leave only the handlers that a replay of the selection may skip."""
        is_replay = data.get("kind") == OperationKind.REPLAY and not self.errors
        names = skippable_handlers(self.selection) if is_replay else []
        self.offer(names)
        data["forget_inbox"] = [name for name in data.get("forget_inbox", ()) if name in names]

    def _check_moments(self, data: dict[str, Any]) -> None:
        for name in ("since", "until"):
            try:
                if data.get(name):
                    data[name].astimezone(UTC)  # databases store UTC
            except (OverflowError, ValueError):
                self.add_error(name, _("This time is out of the range of the database."))
        if data.get("since") and data.get("until") and data["since"] >= data["until"]:
            self.add_error("until", _("“Created before” must be later than “Created since”."))

    def _check_status(self, kind: str | None, status: str | None) -> None:
        if kind and status and status not in MOVES[kind].sources:
            possible = ", ".join(str(OutboxEventStatus(each).label) for each in MOVES[kind].sources)
            problem = _("Can't %(kind)s events with this status. Choose one of: %(possible)s.")
            self.add_error(
                "status", problem % {"kind": OperationKind(kind).label, "possible": possible}
            )


def _aliases(using: str) -> list[str]:
    """Return the configured backends, then others that may still have events."""
    configured = list(backends.aliases())
    known = OutboxPartition.objects.using(using).values_list("backend", flat=True).distinct()
    return [*configured, *sorted(set(known) - set(configured))]


def counted(events: int, *, is_exact: bool) -> str:
    """Return a number of events in words."""
    if is_exact:
        return ngettext("%(events)s event", "%(events)s events", events) % {"events": f"{events:,}"}
    return _("about %(events)s events") % {"events": f"{events:,}"}
