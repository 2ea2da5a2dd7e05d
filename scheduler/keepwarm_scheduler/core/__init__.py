"""The scheduler's pure core: events in, effects out, the time an argument.

Nothing in this package reads a clock, a socket, a file, an environment variable or a random number, logs, or
starts a thread; sets are never iterated. So a run is a function of its events and can be replayed bit by bit.
"""
