"""A publisher as a process: publishes events of keys that other processes use as well.

    python -m tests.debezium.writer SEED COUNT

A transaction takes the next number of one to three keys from a table, whose rows it locks, and
publishes an event of each. One in five is rolled back, and some roll back to a savepoint. So the
committed events of each key have the numbers 1, 2, 3 ... in the order in which they must arrive.
"""

from __future__ import annotations

import sys
from random import Random

import django
from django.db import connections, transaction

KEYS = [f"key-{number:02}" for number in range(40)]
ALIAS = "own"


def main(seed: int, count: int) -> None:
    """Commit `count` events or a few more."""
    from django_broadcaster.publishers import publisher

    def publish(keys: list[str]) -> None:
        for key in keys:
            with connections[ALIAS].cursor() as cursor:
                cursor.execute("UPDATE counters SET n = n + 1 WHERE key = %s RETURNING n", [key])
                (number,) = cursor.fetchone()
            publisher.publish_event("counted", "/shop", number, partition_key=key, using=ALIAS)

    random = Random(seed)
    while count > 0:
        keys = sorted(random.sample(KEYS, random.randint(1, 3)))  # no deadlocks
        with transaction.atomic(ALIAS):
            if random.random() < 0.1:
                with transaction.atomic(ALIAS):
                    publish(keys)
                    transaction.set_rollback(True, ALIAS)
            publish(keys)
            if random.random() < 0.2:
                transaction.set_rollback(True, ALIAS)
            else:
                count -= len(keys)


if __name__ == "__main__":
    django.setup()
    main(int(sys.argv[1]), int(sys.argv[2]))
