"""GPUs of a node: never promised beyond what they are, none forgotten, whatever comes and goes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keepwarm_worker.core.devices import Devices

AMOUNTS = st.one_of(st.sampled_from([0, 1, 250, 333, 500, 999, 1000, 1001, 2000]), st.integers(0, 4000))
STEPS = st.lists(st.tuples(st.booleans(), st.integers(1, 6), AMOUNTS), max_size=40)


@given(st.integers(0, 4), STEPS)
def test_no_gpu_is_over_capacity_and_none_is_lost(count: int, steps: list[tuple[bool, int, int]]) -> None:
    names = [f"GPU-{number}" for number in range(count)]
    devices = Devices(names)
    asked: dict[int, int] = {}
    for takes, instance_id, amount in steps:
        if not takes:
            devices.give_back(instance_id)
            asked.pop(instance_id, None)
        elif devices.take(instance_id, asked.get(instance_id, amount)) is not None:
            asked.setdefault(instance_id, amount)
        used = dict.fromkeys(names, 0)
        for held_by, wanted in asked.items():
            held = devices.of(held_by)
            assert len(held) == len(set(held)) == (0 if wanted == 0 else 1 if wanted < 1000 else -(-wanted // 1000))
            for name in held:
                used[name] += min(wanted, 1000) if wanted < 1000 else 1000
        assert devices.free == {name: 1000 - amount for name, amount in used.items()}
        assert all(0 <= free <= 1000 for free in devices.free.values())
    for instance_id in list(asked):
        devices.give_back(instance_id)
    assert devices.free == dict.fromkeys(names, 1000)


@given(st.integers(1, 4), st.lists(st.integers(1, 3000), max_size=8))
def test_whoever_is_refused_would_not_have_fitted(count: int, amounts: list[int]) -> None:
    devices = Devices([str(number) for number in range(count)])
    for instance_id, amount in enumerate(amounts):
        free = sorted(devices.free.values())
        whole = sum(each == 1000 for each in free)
        fits = free[-1] >= amount if amount < 1000 else whole >= -(-amount // 1000)
        assert (devices.take(instance_id, amount) is not None) == fits


def test_parts_share_the_fullest_gpu_that_has_room_so_that_whole_ones_stay_free() -> None:
    devices = Devices(["a", "b", "c"])
    assert devices.take(1, 600) == devices.take(2, 400) == ("a",)
    assert devices.take(3, 500) == ("b",)
    assert devices.take(4, 300) == ("b",)
    assert devices.take(5, 1000) == ("c",)


@pytest.mark.parametrize("amount", [500, 1000, 2000])
def test_asking_again_gives_the_same(amount: int) -> None:
    devices = Devices(["a", "b"])
    first, free = devices.take(1, amount), devices.free
    assert devices.take(1, amount) == first
    assert devices.free == free
