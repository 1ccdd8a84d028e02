"""The demo: it kills workers during a delivery, and counts the events that arrived.

judge.py         compares committed events with those that arrived, without Django
places.py        creates databases, and deletes them at the end
destinations.py  does the same for the streams, queues or topics of a broker
settings.py      are the shop's settings with billing's database beside, to count in both
writers.py       runs processes that write; writer.py is the code of each one
worker.py        runs a service's worker as a process that can be frozen, killed and restarted
services.py      reads what is in the outboxes, and what arrived
drama.py         runs the steps of the demo
screen.py        prints the progress and the result
"""
