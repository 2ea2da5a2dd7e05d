"""A program as short as can be: its first result, and when it had it. Run by path, as a user's script is.

python benchmarks/hot_path/first_result.py SYSTEM FILE
"""

import sys
import time


def seven() -> int:
    """Something to ask for."""
    return 7


def with_keepwarm() -> int:
    """As a user writes it; ``seven`` has to stay plain for the pool."""
    from keepwarm import isolated

    return isolated(keep_alive=600)(seven)()


def with_keepwarm_submitted() -> int:
    """The same, where no process is lent to the program."""
    import os

    os.environ["KEEPWARM_LENDING"] = "0"
    return with_keepwarm()


def with_pool() -> int:
    """The same."""
    from concurrent.futures import ProcessPoolExecutor

    return ProcessPoolExecutor(2).submit(seven).result()


def with_ray() -> int:
    """The same, as the peers' own documentation starts them."""
    import ray  # type: ignore[import-not-found,import-untyped,unused-ignore]

    ray.init(num_cpus=2, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    return int(ray.get(ray.remote(seven).remote()))


def with_dask() -> int:
    """The same."""
    import distributed  # type: ignore[import-not-found,import-untyped,unused-ignore]

    cluster = distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None)
    return int(distributed.Client(cluster).submit(seven).result())


def with_loky() -> int:
    """The same."""
    import loky  # type: ignore[import-not-found,import-untyped,unused-ignore]

    return int(loky.get_reusable_executor(max_workers=2).submit(seven).result())


WAYS = {
    "keepwarm": with_keepwarm,
    "keepwarm without lending": with_keepwarm_submitted,
    "pool": with_pool,
    "ray": with_ray,
    "dask": with_dask,
    "loky": with_loky,
}

if __name__ == "__main__":
    assert WAYS[sys.argv[1]]() == 7
    ended_s = time.monotonic()
    with open(sys.argv[2], "w", encoding="utf-8") as file:  # noqa: PTH123  # nothing is imported that is not needed
        file.write(str(ended_s))
