"""From a decorated function to what the wire says of it."""

from typing import Any, NamedTuple

from keepwarm.function import IsolatedFunction
from keepwarm.options import Options, Timeouts, duration_us
from keepwarm.resources import Resources
from keepwarm_wire.messages import FunctionOptions, Pair, Quantity, RetryLimits

__all__ = ["Description", "describe"]


class Description(NamedTuple):
    """What is declared of a function. Equal descriptions are the same function to the cluster."""

    name: str
    version: bytes
    codec: str
    spec: bytes
    has_setup: bool
    options: FunctionOptions
    body: bytes


def describe(function: IsolatedFunction[Any, Any]) -> Description:
    """Describe a function; it is pickled if it was not yet. Raises ``FunctionNotSerializable``."""
    payload, codec, version = function.prepared
    options = function.options
    has_setup = options.setup is not None
    return Description(function.name, version, codec, options.spec(), has_setup, _wire_options(options), payload)


def _wire_options(options: Options) -> FunctionOptions:
    timeouts, resources, retries = options.timeouts, options.resources, options.retries
    assert isinstance(timeouts, Timeouts)
    assert isinstance(resources, Resources)
    assert not isinstance(retries, int)
    limits = RetryLimits(retries.lost_node, retries.exceptions, retries.crash, retries.out_of_memory)
    return FunctionOptions(
        keep_alive_us=duration_us(options.keep_alive),
        queue_timeout_us=duration_us(timeouts.queue),
        startup_timeout_us=duration_us(timeouts.startup),
        run_timeout_us=duration_us(timeouts.run),
        overall_timeout_us=duration_us(timeouts.overall),
        retries=RetryLimits(0, 0, 0, 0) if options.at_most_once else limits,
        cpu=resources.cpu_thousandths,
        memory_bytes=resources.memory_bytes,
        gpu=resources.gpu_thousandths,
        custom=tuple(Quantity(name, amount) for name, amount in sorted(resources.custom_thousandths.items())),
        labels=tuple(Pair(name, value) for name, value in sorted(resources.labels.items())),
        env_vars=tuple(Pair(name, value) for name, value in sorted(options.env_vars.items())),
        at_most_once=options.at_most_once,
    )
