"""How fast it is, beside how fast it could be: `python -m benchmarks NAME`.

Every figure is the median of several runs and a ratio to a bare loop, which does the same work
with the database's and the broker's clients and nothing else, measured in turns with it.
"""
