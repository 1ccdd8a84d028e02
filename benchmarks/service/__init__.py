"""A service that consumes what the benchmarks publish: its settings and its handler."""
