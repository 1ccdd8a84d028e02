"""Measure the package beside bare loops: `python -m benchmarks NAME`.

Each figure is the median of several runs, with the ratio to a bare loop that runs in turns with it.
A bare loop does the same work with the clients of the database and the broker, and nothing else.
"""
