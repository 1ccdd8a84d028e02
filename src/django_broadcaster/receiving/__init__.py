"""The threads of `outbox_worker` that read brokers.

- `receiver` is the work of one consumer: receive, write, acknowledge.
- `receiver_thread` is the thread in which it runs, and which recovers from every error.
- `lease` is the receiver's row: its right to read, and its figures.
- `positions` are the rows of sources whose positions are in the database.
"""
