"""The demo's machinery: a relay is killed at work, and what arrived is counted.

judge.py      what broke? compares what was committed with what arrived; knows no Django
places.py     a fresh database and a fresh stream, gone at the end
writers.py    the processes that write; writer.py is one of them at work
relay.py      the relay as a process that can be frozen, killed and started again
arrivals.py   what is at the destination
drama.py      the acts in their order
screen.py     what the reader sees
"""
