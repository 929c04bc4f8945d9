"""The bench: speed beside other breakers, load on Redis, and scale. `python -m tests.bench` runs it.

Asked for by name (`make bench`), not part of the tests: it takes minutes, and it judges by the clock.
"""
