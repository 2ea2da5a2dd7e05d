"""Options by example: what may be written, what becomes of it, and how every mistake is answered."""

from __future__ import annotations

import datetime
import math
import subprocess
import sys
from fractions import Fraction
from typing import Any, get_type_hints

import pytest

from keepwarm.declaring import _wire_options
from keepwarm.errors import OptionError
from keepwarm.options import (
    PRIORITY_MAX,
    PRIORITY_MIN,
    RUNNING_PYTHON,
    Options,
    Resources,
    Retry,
    Timeouts,
    duration_us,
)
from keepwarm.resources import parse_size
from keepwarm_wire.fields import FOREVER_US
from keepwarm_wire.messages import RetryLimits, Submit
from keepwarm_wire.spec import canonical_spec
from keepwarm_wire.texts import TEXT_BYTES_MAX, text_bytes


def load() -> int:
    """Be a setup."""
    return 1


def load_async() -> Any:
    """Return an async setup, which is refused."""

    async def load() -> int:
        return 1

    return load


def generate() -> Any:
    """Be a generator, which is refused as a setup."""
    yield 1


def needs(path: str) -> str:
    """Be a setup that cannot be called without arguments."""
    return path


def test_defaults() -> None:
    """Nothing given is a valid function: no packages, ten seconds, one core, no limit but that of the start."""
    options = Options.of()
    assert options.spec() == canonical_spec([], RUNNING_PYTHON)
    assert (options.keep_alive, options.python) == (10.0, RUNNING_PYTHON)
    assert options.timeouts == Timeouts(None, 600.0, None, None)
    assert options.retries == Retry(3, 0, 0, 0)
    assert options.resources == Resources(1.0)
    assert options.setup is None
    assert options.priority == 0
    assert options.differing() == {}


def test_priorities_are_those_that_the_wire_carries() -> None:
    """No more, no less; and a priority is no part of what a function is."""
    [bounds] = get_type_hints(Submit, include_extras=True)["priority"].__metadata__
    assert bounds == (PRIORITY_MIN, PRIORITY_MAX)
    urgent = Options.of(priority=PRIORITY_MAX)
    assert urgent.changed(priority=PRIORITY_MIN).priority == PRIORITY_MIN
    assert urgent.spec() == Options.of().spec()


def test_what_may_run_once_is_not_retried() -> None:
    """Retries and at_most_once contradict each other; the default for lost nodes gives way, also on the wire."""
    options = Options.of(at_most_once=True)
    assert options.changed(retries=Retry(lost_node=0)).at_most_once
    for retries in (1, Retry(crash=1), Retry(out_of_memory=1), Retry(lost_node=5)):
        with pytest.raises(OptionError, match="at_most_once=True with retries="):
            options.changed(retries=retries)
        with pytest.raises(OptionError, match="at_most_once=True with retries="):
            Options.of(retries=retries).changed(at_most_once=True)
    for value in (1, "yes", None):
        with pytest.raises(OptionError, match="allowed are True and False"):
            Options.of(at_most_once=value)
    told = _wire_options(options)
    assert (told.at_most_once, told.retries) == (True, RetryLimits(0, 0, 0, 0))
    plain = _wire_options(options.changed(at_most_once=False))
    assert (plain.at_most_once, plain.retries) == (False, RetryLimits(3, 0, 0, 0))


def test_short_forms_become_full_ones() -> None:
    """A number of seconds, a count and a mapping are short for the objects."""
    options = Options.of(timeout=5, retries=2, resources={"cpu": 2, "memory": "1GiB"}, env_vars={"B": "2", "A": "1"})
    assert options.timeouts == Timeouts(run=5.0)
    assert options.retries == Retry(exceptions=2)
    assert options.resources == Resources(cpu=2, memory="1GiB")
    assert list(options.env_vars.items()) == [("A", "1"), ("B", "2")]


def test_changed_checks_again() -> None:
    """A changed copy keeps the rest, and its mistakes are found too."""
    options = Options.of(requirements=["six"], timeout=5)
    changed = options.changed(keep_alive=60)
    assert (changed.requirements, changed.keep_alive, changed.timeouts.run) == (("six",), 60.0, 5.0)
    assert options.keep_alive == 10.0
    with pytest.raises(OptionError, match="keep_alive=-1"):
        options.changed(keep_alive=-1)
    with pytest.raises(OptionError, match="unknown option 'keepalive'"):
        options.changed(keepalive=1)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (0, 0.0),
        (0.5, 0.5),
        (10, 10.0),
        (math.inf, math.inf),
        (10**400, math.inf),
        (1e300, 1e300),
        (Fraction(1, 2), 0.5),
    ],
)
def test_keep_alive(value: Any, seconds: float) -> None:
    """Zero and infinity are allowed, any real number is, and huge ones saturate."""
    assert Options.of(keep_alive=value).keep_alive == seconds


@pytest.mark.parametrize(
    ("seconds", "microseconds"),
    [
        (None, FOREVER_US),
        (math.inf, FOREVER_US),
        (1e300, FOREVER_US),
        (0, 0),
        (10, 10_000_000),
        (1e-9, 1),
        (0.1, 100_000),
    ],
)
def test_durations_on_the_wire(seconds: float | None, microseconds: int) -> None:
    """Whole microseconds, never rounded to nothing, saturating at forever."""
    assert duration_us(seconds) == microseconds


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"keepalive": 1}, r"unknown option 'keepalive'\. Did you mean keep_alive\?"),
        ({"requirments": []}, r"Did you mean requirements\?"),
        ({"python_version": "3.11"}, r"Did you mean python\?"),
        ({"memory": "1GiB"}, r"Did you mean resources=Resources\(memory=\.\.\.\)\?"),
        ({"xyzzy": 1}, r"unknown option 'xyzzy'\. The options are requirements, python, keep_alive"),
        ({"requirements": "requests"}, r"write requirements=\['requests'\]"),
        ({"requirements": None}, "this is a list of strings"),
        ({"requirements": {"requests": "2"}}, "this is a list of strings"),
        ({"requirements": b"requests"}, "this is a list of strings"),
        ({"requirements": [1]}, "requirement 1 is a int"),
        ({"requirements": ["-e ."]}, "requirement '-e .' cannot be used"),
        ({"requirements": ["requests # latest"]}, "remove the comment"),
        ({"python": 3.11}, "write it as text"),
        ({"python": "3.11.4"}, "major and minor version only"),
        ({"python": "3"}, "major and minor version only"),
        ({"keep_alive": -1}, "keep_alive=-1: allowed are seconds of zero or more, or math.inf"),
        ({"keep_alive": -math.inf}, "allowed are seconds"),
        ({"keep_alive": -(10**400)}, "allowed are seconds"),
        ({"keep_alive": math.nan}, "keep_alive=nan"),
        ({"keep_alive": "10"}, "keep_alive='10'"),
        ({"keep_alive": True}, "keep_alive=True"),
        ({"keep_alive": None}, "keep_alive=None"),
        ({"keep_alive": datetime.timedelta(seconds=1)}, r"write \.total_seconds\(\)"),
        ({"timeout": 0}, "timeout=0: allowed are seconds above zero"),
        ({"timeout": -1}, "timeout=-1"),
        ({"timeout": "1"}, r"or Timeouts\(\.\.\.\)"),
        ({"timeout": math.nan}, "timeout=nan"),
        ({"retries": -1}, "retries=-1: allowed are whole numbers from 0 to 1000"),
        ({"retries": 1.5}, "retries=1.5"),
        ({"retries": True}, "retries=True"),
        ({"retries": None}, "retries=None"),
        ({"resources": 4}, r"resources=4: write Resources\(cpu=2"),
        ({"resources": {"cpus": 4}}, "unknown resource 'cpus'; did you mean 'cpu'"),
        ({"resources": {"license": 1}}, r"custom amounts go in custom=\{'license': \.\.\.\}"),
        ({"resources": {"cpu": -1}}, "resources.cpu=-1"),
        ({"resources": {"cpu": "1"}}, "resources.cpu='1'"),
        ({"resources": {"cpu": math.nan}}, "resources.cpu=nan"),
        ({"resources": {"gpu": 0.5}}, "resources.gpu=0.5: GPUs are counted whole"),
        ({"resources": {"gpu": -1}}, "resources.gpu=-1"),
        ({"resources": {"memory": "much"}}, "resources.memory='much': a size is bytes"),
        ({"resources": {"memory": 0}}, "resources.memory=0"),
        ({"resources": {"memory": 1.5}}, "resources.memory=1.5"),
        ({"resources": {"custom": {"cpu": 1}}}, "has a field of its own"),
        ({"resources": {"custom": {"license": -1}}}, r"resources\.custom\['license'\]=-1"),
        ({"resources": {"custom": ["license"]}}, "this is a mapping"),
        ({"resources": {"labels": {"zone": 1}}}, "write '1'"),
        ({"resources": {"labels": {"": "a"}}}, "the name '' is not text"),
        ({"env_vars": {"A": 1}}, r"env_vars\['A'\]=1: values are text; write '1'"),
        ({"env_vars": {"A=B": "1"}}, "cannot hold"),
        ({"env_vars": {1: "1"}}, "the name 1 is not text"),
        ({"env_vars": ["A=1"]}, "this is a mapping"),
        ({"env_vars": {"A": "x\0"}}, "none of them NUL"),
        ({"env_vars": {"A": "x" * 70_000}}, "at most 65536 characters"),
        ({"priority": 101}, "priority=101: allowed are whole numbers from -100 to 100; higher goes first"),
        ({"priority": -101}, "priority=-101"),
        ({"priority": 1.0}, "priority=1.0"),
        ({"priority": True}, "priority=True"),
        ({"priority": "high"}, "priority='high'"),
        ({"setup": 3}, "setup=3: this is a function without parameters"),
        ({"setup": needs}, "missing a required argument: 'path'"),
        ({"setup": load_async()}, "neither async nor a generator"),
        ({"setup": generate}, "neither async nor a generator"),
    ],
)
def test_mistakes(given: dict[str, Any], message: str) -> None:
    """Each names the option, the value and what is allowed."""
    with pytest.raises(OptionError, match=message):
        Options.of(**given)


def test_another_python_is_refused_naming_both() -> None:
    """Functions travel as bytecode, so the minor version is this program's."""
    assert Options.of(python=RUNNING_PYTHON).python == RUNNING_PYTHON
    with pytest.raises(OptionError) as caught:
        Options.of(python="3.8")
    assert "'3.8'" in str(caught.value)
    assert RUNNING_PYTHON in str(caught.value)


@pytest.mark.parametrize("limit", ["queue", "startup", "run", "overall"])
def test_each_timeout(limit: str) -> None:
    """Each is seconds above zero; None and infinity are no limit."""
    assert getattr(Timeouts(**{limit: 2}), limit) == 2.0
    assert getattr(Timeouts(**{limit: None}), limit) is None
    assert getattr(Timeouts(**{limit: math.inf}), limit) is None
    for wrong in (0, -1, math.nan, "1"):
        with pytest.raises(OptionError, match=rf"timeout\.{limit}="):
            Timeouts(**{limit: wrong})  # type: ignore[arg-type]


@pytest.mark.parametrize("cause", ["lost_node", "exceptions", "crash", "out_of_memory"])
def test_each_retry(cause: str) -> None:
    """Each is a count with a limit."""
    assert getattr(Retry(**{cause: 1000}), cause) == 1000
    for wrong in (-1, 1001, 0.5, None):
        with pytest.raises(OptionError, match=rf"retries\.{cause}="):
            Retry(**{cause: wrong})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("written", "size"),
    [
        (1, 1),
        ("1", 1),
        ("512MiB", 512 * 1024**2),
        ("512 mib", 512 * 1024**2),
        ("2GB", 2 * 1000**3),
        ("1.5GiB", 3 * 1024**3 // 2),
        ("1TiB", 1024**4),
        ("10B", 10),
    ],
)
def test_sizes(written: str | int, size: int) -> None:
    """Decimal and binary units, whole and broken numbers, exactly."""
    assert parse_size("memory", written) == size


@pytest.mark.parametrize(
    "written", ["", "MiB", "1 2", "-1", "1e9", "2XB", "0", -1, 0, True, None, 1 << 51, "2048TiB", "9" * 30]
)
def test_no_sizes(written: Any) -> None:
    """Everything else is refused, with an example of what is allowed."""
    with pytest.raises(OptionError, match="512MiB"):
        parse_size("memory", written)


def test_resources_in_wire_units() -> None:
    """Thousandths are exact and rounded up, so that nothing asked for is lost; memory is bytes, 0 when undeclared."""
    resources = Resources(cpu=0.1, memory="1KiB", gpu=2, custom={"license": 0.0005, "slots": 3})
    assert resources.cpu_thousandths == 100
    assert resources.memory_bytes == 1024
    assert resources.gpu_thousandths == 2000
    assert resources.custom_thousandths == {"license": 1, "slots": 3000}
    assert Resources().memory_bytes == 0
    assert Resources(cpu=0).cpu_thousandths == 0


def test_frozen() -> None:
    """Options cannot change under a function's feet, not through the mappings given either."""
    variables = {"A": "1"}
    options = Options.of(env_vars=variables, resources=Resources(custom={"a": 1}))
    variables["A"] = "2"
    assert options.env_vars["A"] == "1"
    with pytest.raises(TypeError):
        options.env_vars["A"] = "3"  # type: ignore[index]
    with pytest.raises(AttributeError):
        options.keep_alive = 3.0  # type: ignore[misc]
    assert hash(options) == hash(Options.of(env_vars={"A": "1"}, resources=Resources(custom={"a": 1})))


def test_light_import() -> None:
    """The public package imports nothing heavy, and a decorator with plain names neither."""
    heavy = ("zmq", "packaging", "cloudpickle", "rich", "typer", "msgpack", "asyncio", "fcntl")
    program = (
        f"import sys, keepwarm; keepwarm.isolated(requirements=['requests'])(lambda: 1);"
        f"print([name for name in {heavy!r} if name in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert shown.strip() == "[]"


def test_what_no_scheduler_takes_is_refused_here() -> None:
    """Variables, labels and custom resources have a limit together, as schedulers count them."""
    entries = {str(number): "x" * 60_000 for number in range(17)}
    fits = Options(env_vars=entries)
    size = sum(32 + len(name) + len(text) for name, text in fits.env_vars.items())
    assert size == text_bytes(_wire_options(fits).env_vars) <= TEXT_BYTES_MAX
    rest = TEXT_BYTES_MAX - size - 32 - 1
    just = Resources(labels={"z": "x" * rest})
    Options(env_vars=entries, resources=just)
    for more in (Resources(labels={"z": "x" * rest + "x"}), Resources(labels=just.labels, custom={"disk": 1})):
        with pytest.raises(OptionError, match=rf"together they take up \d+ bytes, at most {TEXT_BYTES_MAX}"):
            Options(env_vars=entries, resources=more)
    with pytest.raises(OptionError, match="together"):
        fits.changed(env_vars=entries | {"umlauts": "ü" * 32_000})


def test_text_that_cannot_be_sent_is_refused_here() -> None:
    """A lone surrogate, as in a file name that is not UTF-8."""
    with pytest.raises(OptionError, match="cannot be written as UTF-8"):
        Options(env_vars={"FILE": "\udcff"})
