"""A PgBouncer of a test's own, in transaction mode, in front of the shared PostgreSQL."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from threading import Barrier
from typing import Any

from django.db import connections

from tests.support.documented import BEHIND_PGBOUNCER, shown
from tests.support.own_servers import as_alias, own_instance
from tools import handshakes, launch
from tools.servers import Service

PGBOUNCER = Service(
    name="pgbouncer",
    variable="BROADCASTER_PGBOUNCER_URL",
    default="postgres://postgres@127.0.0.1:6432/postgres",
    handshake=handshakes.postgres,
    program="pgbouncer",
    folders="/usr/sbin",
    serve="pgbouncer {home}/pgbouncer.ini",
    account="postgres",  # it refuses to be root
    debian=("pgbouncer",),
)
SESSIONS = 6
"""Sessions of the pool that stand open; more are opened when more transactions need one."""

# Each transaction gets the session that was idle for longest, so that no two of a client in a row
# are on one session if there are several.
INI = """
[databases]
* = host={HOST} port={PORT}

[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = trust
auth_file = {home}/users
pool_mode = transaction
default_pool_size = 20
server_round_robin = 1
"""


class Pool:
    """PgBouncer as Django's alias `pooled`, with the settings that our documentation names."""

    alias = "pooled"

    def __init__(self, instance: launch.Instance, behind: str) -> None:
        self.instance = instance
        self._server = connections[behind].settings_dict
        self.place = {
            **shown(BEHIND_PGBOUNCER)["default"],
            "PORT": instance.port,
            "HOST": "127.0.0.1",
        }
        self.place.update({name: self._server[name] for name in ("NAME", "USER", "PASSWORD")})

    def start(self) -> None:
        """Start the server, or restart it on the same port."""
        self._configure()
        self.instance.start()

    def _configure(self) -> None:
        home, known = self.instance.home, self._server
        (home / "users").write_text('"{USER}" "{PASSWORD}"'.format(**known))
        (home / "pgbouncer.ini").write_text(INI.format(**known, port=self.instance.port, home=home))

    def point_to(self, port: int) -> None:
        """Send its clients to a server on another port from now on, without their noticing."""
        self._server = {**self._server, "PORT": port}
        self._configure()
        assert self.instance.process is not None
        self.instance.process.send_signal(signal.SIGHUP)

    def open_sessions(self) -> None:
        """Have several sessions, by as many transactions at once."""
        barrier = Barrier(SESSIONS)

        def hold(_: int) -> None:
            with closing(connections[self.alias].copy()) as own:
                own.set_autocommit(False)
                with own.cursor() as cursor:
                    cursor.execute("SELECT 1")
                    barrier.wait(30)
                own.rollback()

        with ThreadPoolExecutor(SESSIONS) as threads:
            list(threads.map(hold, range(SESSIONS)))

    def ask_every_session(self, sql: str) -> list[Any]:
        """Run a query in a transaction for each session, and return what the first column gave."""
        answers = []
        with connections[self.alias].cursor() as cursor:
            for _ in range(2 * SESSIONS):
                cursor.execute(sql)
                answers += [row[0] for row in cursor.fetchall()]
        return answers


@contextmanager
def pooling(behind: str) -> Iterator[Pool]:
    """Give a running PgBouncer in front of the test database of that alias."""
    with own_instance(PGBOUNCER) as instance:
        pool = Pool(instance, behind)
        pool.start()
        with as_alias(pool.alias, pool.place):
            yield pool
