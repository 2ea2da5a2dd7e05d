"""The documentation's programs run on clusters of their own."""

from support.cluster_fixtures import home, no_process_left

__all__ = ["home", "no_process_left"]
