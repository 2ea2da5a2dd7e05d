"""The agent's command line and variables."""

from pathlib import Path

import pytest

from keepwarm_worker.config import AgentConfig, ConfigError, parse_command_line, parse_size

NEEDED = ["--scheduler", "ipc:///run/kw.sock", "--home", "/var/lib/kw"]


def test_two_settings_suffice() -> None:
    config = parse_command_line([*NEEDED, "--node", "n1"], {})
    assert config == AgentConfig("ipc:///run/kw.sock", Path("/var/lib/kw"), "n1")


def test_no_setting_is_needed_beside_a_scheduler_started_in_the_same_home() -> None:
    config = parse_command_line(["--node", "n1"], {"KEEPWARM_HOME": "/kw"})
    assert config == AgentConfig("ipc:///kw/cluster/scheduler.sock", Path("/kw/nodes/n1"), "n1")


def test_an_agent_joins_the_cluster_that_programs_are_told_of() -> None:
    variables = {"KEEPWARM_ADDRESS": "ipc:///a.sock"}
    assert parse_command_line(["--node", "n1"], variables).scheduler == "ipc:///a.sock"
    assert parse_command_line([], {**variables, "KEEPWARM_SCHEDULER": "ipc:///b.sock"}).scheduler == "ipc:///b.sock"


def test_every_flag_is_read() -> None:
    flags = ["--python", "/a", "--python", "/b", "--cpu", "0.5", "--memory", "2G", "--label", "zone=a=b"]
    config = parse_command_line([*NEEDED, *flags, "--log-level", "debug", "--store-size", "1M"], {})
    assert config.pythons == ("/a", "/b")
    assert (config.cpu_permille, config.memory_bytes, config.store_bytes) == (500, 2 * 1024**3, 1024**2)
    assert config.labels == (("zone", "a=b"),)
    assert config.log_level == "debug"


def test_variables_stand_in_for_flags_and_flags_win() -> None:
    variables = {
        "KEEPWARM_SCHEDULER": "ipc:///v.sock",
        "KEEPWARM_NODE_HOME": "/v",
        "KEEPWARM_NODE": "v",
        "KEEPWARM_CPU": "2",
        "KEEPWARM_MEMORY": "1000",
        "KEEPWARM_LOG_LEVEL": "ERROR",
    }
    config = parse_command_line(["--node", "flag"], variables)
    assert (config.scheduler, config.home, config.node) == ("ipc:///v.sock", Path("/v"), "flag")
    assert (config.cpu_permille, config.memory_bytes, config.log_level) == (2000, 1000, "error")


def test_gpus_are_found_unless_their_number_is_given() -> None:
    assert parse_command_line(NEEDED, {}).gpus is None
    assert parse_command_line([*NEEDED, "--gpus", "0"], {"KEEPWARM_GPUS": "4"}).gpus == 0
    assert parse_command_line(NEEDED, {"KEEPWARM_GPUS": "4"}).gpus == 4


def test_gpus_that_are_hidden_from_the_agent_are_not_its_to_offer() -> None:
    assert parse_command_line(NEEDED, {}).visible_gpus is None
    assert parse_command_line(NEEDED, {"CUDA_VISIBLE_DEVICES": "2,3"}).visible_gpus == "2,3"
    assert parse_command_line(NEEDED, {"CUDA_VISIBLE_DEVICES": ""}).visible_gpus == ""


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ([*NEEDED, "--gpus", "-1"], "such as 0 or 4"),
        ([*NEEDED, "--gpus", "all"], "such as 0 or 4"),
        (["--scheduler", "http://host", "--home", "/h"], "no address"),
        (["--at", "host:0", "--home", "/h"], "no address"),
        ([*NEEDED, "--join", "@/nowhere"], "token cannot be read"),
        (["--scheduler", "ipc://", "--home", "/h"], "no address"),
        (["--node", "../n1"], "--home DIR"),
        ([*NEEDED, "--cpu", "0"], "number of cores"),
        ([*NEEDED, "--cpu", "many"], "number of cores"),
        ([*NEEDED, "--cpu", "nan"], "number of cores"),
        ([*NEEDED, "--memory", "lots"], "512M"),
        ([*NEEDED, "--label", "zone"], "KEY=VALUE"),
    ],
)
def test_a_wrong_setting_is_refused_with_advice(flags: list[str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        parse_command_line(flags, {})


def test_a_wrong_log_level_in_a_variable_is_refused() -> None:
    with pytest.raises(ConfigError, match="KEEPWARM_LOG_LEVEL=loud"):
        parse_command_line(NEEDED, {"KEEPWARM_LOG_LEVEL": "loud"})


@pytest.mark.parametrize(
    ("text", "size"),
    [("1000", 1000), ("1k", 1024), ("1kB", 1000), ("1KiB", 1024), ("1.5G", 3 * 512 * 1024**2), (" 2 T ", 2 * 1024**4)],
)
def test_sizes_are_read_as_people_write_them(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "-1", "1X", "G", "1 2", "1e9", "٣"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_size(text)


def test_help_names_every_flag_and_variable(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        parse_command_line(["--help"], {})
    assert left.value.code == 0
    text = capsys.readouterr().out
    for flag in ("scheduler", "home", "node", "python", "cpu", "memory", "label", "log-level", "store-size"):
        assert f"--{flag}" in text
    for name in ("SCHEDULER", "NODE_HOME", "NODE", "CPU", "MEMORY", "STORE_SIZE", "LOG_LEVEL", "INDEX_URL"):
        assert f"KEEPWARM_{name}" in text
