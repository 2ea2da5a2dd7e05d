"""The report, from samples made by hand."""

from benchmarks.hot_path.figures import Sample
from benchmarks.hot_path.table import report, title_of


def sample(workload: str, system: str, repetition: int, cpu_us: float, **more: float) -> Sample:
    return Sample(workload, "", system, repetition, {"cpu_us_per_call": cpu_us, **more}, {"client": cpu_us / 2})


def written(*samples: Sample) -> str:
    return report(
        samples, ("keepwarm", "pool"), ("keepwarm over TCP", "keepwarm without lending", "keepwarm through ZeroMQ")
    )


def test_a_row_has_both_systems_and_their_ratio() -> None:
    text = written(sample("in_flight", "keepwarm", 0, 300), sample("in_flight", "pool", 0, 100))
    assert "| in_flight | processor time per call, µs | 300 | 100 | 3.00 |" in text.splitlines()


def test_several_runs_are_told_with_their_spread() -> None:
    ours = [sample("in_flight", "keepwarm", number, cpu_us) for number, cpu_us in enumerate((300, 100, 200))]
    pool = [sample("in_flight", "pool", number, 100) for number in range(3)]
    assert "| 200 (100 to 300) | 100 | 2.00 (1.00 to 3.00) |" in written(*ours, *pool)


def test_every_row_has_as_many_columns_as_its_head() -> None:
    text = written(*(sample("in_flight", system, 0, 100) for system in ("keepwarm", "pool", "loky")))
    for table in text.split("\n\n"):
        rows = [line for line in table.splitlines() if line.startswith("|")]
        assert len({row.count("|") for row in rows}) <= 1, table


def test_a_peer_has_a_column_and_no_ratio() -> None:
    assert "| keepwarm | pool | ratio | loky |" in written(
        *(sample("in_flight", system, 0, 100) for system in ("keepwarm", "pool", "loky"))
    )


def test_tcp_is_compared_with_both_local_sockets_in_tables_of_their_own() -> None:
    figures = {"keepwarm over TCP": 110, "keepwarm without lending": 100, "keepwarm through ZeroMQ": 88}
    text = written(*(sample("curve", system, 0, cpu_us) for system, cpu_us in figures.items()))
    assert "| curve | processor time per call, µs | 110 | 100 | 1.10 |" in text.splitlines()
    assert "| curve | processor time per call, µs | 110 | 88 | 1.25 |" in text.splitlines()


def test_processor_time_is_split_by_part() -> None:
    assert "| in_flight | keepwarm | 150 |" in written(sample("in_flight", "keepwarm", 0, 300))


def test_memory_gained_has_no_ratio() -> None:
    samples = [Sample("growth", "", name, 0, {"growth_mib": 2.0}, {}) for name in ("keepwarm", "pool")]
    assert "| growth | memory (RSS) gained, MiB | 2.0 | 2.0 |  |" in written(*samples).splitlines()


def test_noise_is_told_or_its_absence() -> None:
    assert "at most 3 %" in written(sample("in_flight", "keepwarm", 0, 300, others_percent=1.0))
    assert "in_flight with keepwarm 40 %" in written(sample("in_flight", "keepwarm", 0, 300, others_percent=40.0))


def test_a_figure_of_a_part_is_called_after_both() -> None:
    assert title_of("pss_mib.agent").text == "memory (PSS), MiB: agent"
