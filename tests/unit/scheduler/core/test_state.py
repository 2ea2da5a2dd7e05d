"""The records: what they compute, and that they are told apart by identity."""

from keepwarm_scheduler.core.state import Function, Shape
from support.scheduler_driver import Driver, warm


def test_a_call_is_known_by_its_session_and_number() -> None:
    driver = Driver()
    client, _ = warm(driver)
    number = client.submit()
    call = driver.cluster.sessions[client.session_id].calls[number]
    assert call.key == (client.session_id, number)


def test_a_function_says_its_name_and_options() -> None:
    driver = Driver()
    client, _ = warm(driver, keep_alive=7)
    function = driver.cluster.sessions[client.session_id].functions[1]
    assert isinstance(function, Function)
    assert function.name == "module:function"
    assert function.options.keep_alive_us == 7_000_000


def test_equal_shapes_are_one_pool_and_records_are_never_equal() -> None:
    assert Shape(1, 2, 3, (), ()) == Shape(1, 2, 3, (), ())
    driver = Driver()
    agent, client = driver.agent(), driver.client()
    client.declare()
    client.submit()
    client.submit()
    first, second = driver.instances
    assert first != second
    assert len(agent.attempts) == 2
