"""A Celery app: for the tests `app` is replaced, and the environment configures a worker process.

BROADCASTER_CELERY_BROKER   the broker's URL
BROADCASTER_CELERY_QUEUE    the queue of all tasks
BROADCASTER_CELERY_RECORD   the file that tasks append to, one line of JSON each
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from celery import Celery


def make_app(broker: str, queue: str, **settings: Any) -> Celery:
    """Return an app whose tasks all go to one queue."""
    app = Celery("tests", broker=broker, set_as_current=False)
    app.conf.update(
        {
            "task_default_queue": queue,
            "broker_connection_retry_on_startup": True,
            "worker_hijack_root_logger": False,
            **settings,
        }
    )
    return app


app = make_app(
    os.environ.get("BROADCASTER_CELERY_BROKER", "memory://"),
    os.environ.get("BROADCASTER_CELERY_QUEUE", "celery"),
)


@app.task(name="order.placed", bind=True)
def placed(task: Any, event: dict[str, Any]) -> None:
    """Append the task's id and its event."""
    line = json.dumps({"task": task.request.id, "event": event})
    with Path(os.environ["BROADCASTER_CELERY_RECORD"]).open("a") as record:
        record.write(f"{line}\n")
