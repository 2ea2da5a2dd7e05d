"""What every integration test gets: a home of its own, and a check that it leaves no process behind."""

from support.cluster_fixtures import home, no_process_left, shared_home

__all__ = ["home", "no_process_left", "shared_home"]
