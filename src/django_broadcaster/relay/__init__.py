"""The relay: takes committed events from the outbox and delivers them.

`delivery` is one batch as a pipeline, `order` keeps keys in order, `ownership` is the lease,
`circuit` waits for a broker that is away, `maintenance` promotes what is due and purges what is
old, `loop` is a turn of all of these for one backend, `worker` runs loops until told to stop, and
`inline` does one turn in the caller's own process.
"""
