"""The demo: it kills a relay during a delivery, and counts the events that arrived.

judge.py      compares committed events with those that arrived, without Django
places.py     creates a database and a stream, and deletes them at the end
writers.py    runs processes that write; writer.py is the code of each one
relay.py      runs the relay as a process that can be frozen, killed and restarted
arrivals.py   reads the events at the destination
drama.py      runs the steps of the demo
screen.py     prints the progress and the result
"""
