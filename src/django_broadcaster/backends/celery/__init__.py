"""Celery: every event becomes one call of a task, sent as Celery's own `send_task` sends it.

    task        named by the option `task`, by default the event's type
    arguments   the event as a dictionary of the CloudEvents JSON format, or its data as keywords
    task id     made from the event's source and id and the backend's alias: `task_id`

The broker is the one of the Celery app (`broker_url`, `broker_use_ssl`, ...), and so are queues,
routes and serializer. On RabbitMQ each call is confirmed by the server before the event counts as
delivered; on Redis it is in the list of its queue. CloudEvents has no binding for the messages of
Celery, so there is no `content_mode`.
"""

from .backend import CeleryBackend, task_id

__all__ = ["CeleryBackend", "task_id"]
