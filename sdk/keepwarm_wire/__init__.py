"""What keepwarm's processes say to one another: messages, their bytes, the spec key, the protocol version.

Rules of this package: no sockets, no clock, no threads; imported by the SDK, the scheduler and the worker,
imports none of them; ``msgpack`` is its only dependency besides ``packaging`` (which only ``spec`` loads, and
only for specs that have requirements).
"""
