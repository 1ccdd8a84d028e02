"""What looks on while events are delivered: listeners only, which can break nothing.

`prometheus` has the metrics of a relay and of the outbox. A module here needs its extra, and is
imported only when it is asked for.
"""
