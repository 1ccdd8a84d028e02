"""A Celery app whose calls go through the outbox, for a project with existing calls.

    app = OutboxCelery("mysite", broker="redis://localhost:6379/0")

`delay`, `apply_async`, `send_task` and signatures write an event in the caller's transaction. The
relay sends the call by the `CeleryBackend`, as Celery itself would have sent it.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from inspect import signature
from typing import Any, Final

from celery import Celery, uuid  # type: ignore[import-untyped]
from celery.backends.rpc import RPCBackend  # type: ignore[import-untyped]
from celery.utils.saferepr import saferepr  # type: ignore[import-untyped]
from celery.utils.time import maybe_make_aware  # type: ignore[import-untyped]
from django.core.exceptions import ImproperlyConfigured

SOURCE: Final = "/celery"

_SIGNATURE: Final = signature(Celery.send_task)

_OF_THE_CALLER: Final = frozenset({
    *("self", "name", "args", "kwargs", "options"),
    *("producer", "publisher", "connection", "router", "route_name", "result_cls", "task_type"),
    *("add_to_parent", "retry", "retry_policy", "countdown", "eta"),
    *("mandatory", "immediate"),
})  # fmt: skip
"""Arguments that a message does not have, or that mean nothing to the relay."""

_IN_PLAIN: Final = frozenset({"task_id", "queue", "routing_key", "priority"})
"""Options that are not encrypted: they say where a call goes, and by what name it is found."""

_CHORD_UNLOCK: Final = "celery.chord_unlock"
"""The task that calls the body of a chord, if the result backend has no chords of its own."""


class OutboxCelery(Celery):  # type: ignore[misc]  # Celery has no types
    """A Celery app that writes calls of tasks to the outbox.

    Args:
        outbox: The alias of the `CeleryBackend` in OUTBOX_PUBLISHERS. Its option `app` is this app.

    All other arguments are those of `Celery`.
    """

    def __init__(self, *args: Any, outbox: str = "celery", **kwargs: Any) -> None:
        self.outbox = outbox
        super().__init__(*args, **kwargs)

    def send_task(self, *args: Any, **kwargs: Any) -> Any:
        """Write a call to the outbox, with the arguments of `Celery.send_task`.

        A worker's task that retries or replaces itself usually raises an error, which rolls back
        the transaction around it. So these calls are sent to the broker at once. A retry may start
        before the transaction of this attempt has ended.

        Returns:
            The result, which is pending until a worker has run the task.

        Raises:
            ImproperlyConfigured: The result backend is rpc://.
            TypeError: An argument or an option can't be written as JSON.
            PublishError: The event can't be written.
        """
        # A project makes its app while Django reads the settings, when no model can be imported.
        from django_broadcaster.backends.celery.json_values import as_json
        from django_broadcaster.publishing import publish_directly

        given = dict(_SIGNATURE.bind(self, *args, **kwargs).arguments)
        if given["name"] == _CHORD_UNLOCK:
            nesting = _nesting_of_body(given)
            kwargs["replaced_task_nesting"] = given["replaced_task_nesting"] = nesting
        further = {**self._options_of_task(given), **given, **given.get("options", {})}
        parent = self.current_worker_task
        if parent and _continues(parent.request, further):
            return self.send_task_now(*args, **kwargs)
        self._require_backend_of_results(further)
        options = {name: further[name] for name in further if name not in _OF_THE_CALLER}
        options["task_id"] = options.get("task_id") or uuid()
        options["reply_to"] = options.get("reply_to") or self.thread_oid
        arguments, keywords = given.get("args") or (), given.get("kwargs") or {}
        if not isinstance(arguments, list | tuple):
            raise TypeError(f"args: must be a list or a tuple, not {type(arguments).__name__}")
        # Workers log them in this form, which JSON would change.
        options.setdefault("argsrepr", saferepr(arguments, self.amqp.argsrepr_maxsize))
        options.setdefault("kwargsrepr", saferepr(keywords, self.amqp.kwargsrepr_maxsize))
        if isinstance(expires := options.get("expires"), int | float):
            options["expires"] = self.now() + timedelta(seconds=expires)
        if parent:
            self._inherit(options, parent)
        call = {name: options.pop(name) for name in _IN_PLAIN & options.keys()}
        publish_directly(
            given["name"],
            SOURCE,
            # Options have arguments, too: those of callbacks and of the rest of a chain.
            as_json({"args": arguments, "kwargs": keywords, "options": options}),
            backend=self.outbox,
            scheduled_at=self._moment_of(further),
            publisher_config={"call": as_json(call)},
            # Callbacks and the next task of a chain come when the task's transaction is over.
            needs_transaction=not parent,
        )
        result = (further.get("result_cls") or self.AsyncResult)(call["task_id"])
        result.ignored = options.get("ignore_result")
        if parent and further.get("add_to_parent", True):
            parent.add_trail(result)
        return result

    def send_task_now(self, *args: Any, **kwargs: Any) -> Any:
        """Send a call to the broker at once, as `Celery.send_task` does."""
        return super().send_task(*args, **kwargs)

    def _options_of_task(self, given: dict[str, Any]) -> dict[str, Any]:
        """Return the options of a task that is called by its name, as far as they matter here.

        Celery adds them when the relay sends the call. A time would begin only then.
        """
        task = None if given.get("task_type") else self._tasks.get(given["name"])
        found = {name: getattr(task, name, None) for name in ("ignore_result", "expires")}
        return {name: value for name, value in found.items() if value}

    def _require_backend_of_results(self, options: dict[str, Any]) -> None:
        """Raise ImproperlyConfigured for a result that would be lost.

        With rpc://, Celery declares the queue of results over the connection that sends a call.
        """
        ignored = options.get("ignore_result")
        if ignored or (ignored is None and self.conf.task_ignore_result):
            return
        if isinstance(self.backend, RPCBackend):
            raise ImproperlyConfigured(
                "result_backend: must not be 'rpc://' for an OutboxCelery, because the relay sends "
                "its calls. Set another result backend, such as Redis or the database, or "
                "task_ignore_result = True"
            )

    def _inherit(self, options: dict[str, Any], parent: Any) -> None:
        """Set what a call inherits from the task that makes it."""
        request = parent.request
        options["root_id"] = options.get("root_id") or request.root_id or request.id
        options["parent_id"] = options.get("parent_id") or request.id
        if self.conf.task_inherit_parent_priority:
            options.setdefault("priority", request.delivery_info.get("priority"))

    def _moment_of(self, options: dict[str, Any]) -> datetime | None:
        """Return the time before which the task does not run."""
        if eta := options.get("eta"):
            moment = datetime.fromisoformat(eta) if isinstance(eta, str) else eta
            aware: datetime = maybe_make_aware(moment, self.timezone)
            return aware
        if countdown := options.get("countdown"):
            later: datetime = self.now() + timedelta(seconds=countdown)
            return later
        return None


def _nesting_of_body(given: dict[str, Any]) -> int:
    """Return how often the task was replaced that the body of a chord belongs to.

    `celery.chord_unlock` gets this number too, since it continues a task as the body does.
    """
    arguments: Any = given.get("args") or ()
    keywords = given.get("kwargs") or {}
    body = arguments[1] if len(arguments) > 1 else keywords.get("callback") or {}
    return body.get("options", {}).get("replaced_task_nesting") or 0


def _continues(request: Any, options: dict[str, Any]) -> bool:
    """Return True if a call continues the running task: a retry, or what replaces the task."""
    nesting = options.get("replaced_task_nesting") or 0
    is_replacement = nesting > (request.get("replaced_task_nesting") or 0)
    return is_replacement or options.get("task_id") == request.id
