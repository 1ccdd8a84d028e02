"""The relay: takes committed events from the outbox and delivers them.

`worker` is the process, with one `backend_thread` for each backend and a `pacemaker` for all. Each
thread turns its `loop`: `rounds` does the periodic work, and `pipeline` delivers a batch. A `lease`
is the right to deliver, and `owned` is what the relay has and remembers under it. `inline` takes
turns in the caller's own process.
"""
