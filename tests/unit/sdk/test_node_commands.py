"""What cordon, drain and uncordon say, and how long a drain is watched."""

from collections.abc import Iterator
from typing import Any

import pytest

from keepwarm.cli.node_commands import parse_wait_s, told, watch
from keepwarm.errors import ClusterUnreachable, OptionError
from keepwarm_wire.fields import FOREVER_US
from keepwarm_wire.messages import NodeChanged


def standing(state: str, reach: str = "alive", calls: int = 0, instances: int = 0, left_us: int = 0) -> NodeChanged:
    return NodeChanged(1, "a", state, reach, calls, instances, left_us)


class Admin:
    """Answers one after the other; one that is an error is raised."""

    def __init__(self, *answers: NodeChanged | Exception) -> None:
        self._answers: Iterator[NodeChanged | Exception] = iter(answers)

    def node(self, name: str) -> NodeChanged:
        assert name == "a"
        answer = next(self._answers)
        if isinstance(answer, Exception):
            raise answer
        return answer


def watched(first: NodeChanged, *answers: NodeChanged | Exception, stop: bool = False) -> tuple[NodeChanged, list[Any]]:
    shown: list[Any] = []
    admin: Any = Admin(*answers)
    return watch(admin, first, stop=stop, show=shown.append, pause=lambda _: None), shown


def test_a_drain_is_watched_until_nothing_is_left() -> None:
    first, second, last = standing("draining", calls=2), standing("draining", calls=1), standing("drained")
    assert watched(first, second, last) == (last, [second, last])


def test_with_stop_it_is_watched_until_the_agent_has_left() -> None:
    last = standing("drained", "absent")
    assert watched(standing("drained"), standing("drained"), last, stop=True)[0] == last


def test_a_drain_that_somebody_called_off_is_not_watched_any_more() -> None:
    assert watched(standing("draining"), standing("open"))[0].state == "open"


def test_a_scheduler_that_restarts_meanwhile_is_waited_for() -> None:
    away = ClusterUnreachable("it did not answer")
    assert watched(standing("draining"), away, away, standing("drained"))[0].state == "drained"


@pytest.mark.parametrize(
    ("now", "text"),
    [
        (standing("open"), "a is in use"),
        (standing("drained", "absent"), "a is drained (it is not here)"),
        (
            standing("cordoned", "suspect", 2, 3, FOREVER_US),
            "a is cordoned (suspect): 2 calls run, 3 processes are left",
        ),
        (
            standing("draining", "alive", 0, 1, 90_000_000),
            "a is draining: 0 calls run, 1 process is left; leases are waited for 90 s more",
        ),
        (standing("draining", "alive", 1, 1, 0), "a is draining: 1 call runs, 1 process is left"),
    ],
)
def test_how_a_node_stands_is_one_sentence(now: NodeChanged, text: str) -> None:
    assert told(now) == text


@pytest.mark.parametrize("text", ["soon", "-1", "", "10x", "1 h m"])
def test_a_wait_that_is_none_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(OptionError, match="10m"):
        parse_wait_s(text)
