"""``python -m keepwarm_worker``: the agent's process, from its command line to its exit code.

Rules: the guardian is forked before anything is imported that takes memory or starts threads; a mistake of the person
who starts the agent is one line on stderr and exit code 2, a home in use exit code 3,
a cluster that does not let the agent in exit code 4.
"""

import os
import sys
from collections.abc import Sequence

from keepwarm_worker.config import ConfigError, parse_command_line
from keepwarm_worker.guardian import start_guardian

__all__ = ["main"]

USAGE_ERROR = 2
HOME_ERROR = 3
JOIN_ERROR = 4


def main(arguments: Sequence[str]) -> int:
    """Run the agent; the exit code of its process."""
    try:
        config = parse_command_line(arguments, os.environ)
    except ConfigError as error:
        return _complain(error, USAGE_ERROR)
    os.environ.pop("KEEPWARM_TOKEN", None)  # nobody that is started from here needs it
    incarnation = os.urandom(16)
    lifeline = start_guardian(f"{incarnation.hex()}:")
    from keepwarm_worker.daemon import run
    from keepwarm_worker.environments.errors import EnvironmentFailure, StoreInUse
    from keepwarm_worker.homes import HomeError
    from keepwarm_worker.joining import JoinError

    try:
        return run(config, incarnation)
    except JoinError as error:
        return _complain(error, JOIN_ERROR)
    except (HomeError, StoreInUse, EnvironmentFailure) as error:
        return _complain(error, HOME_ERROR)
    finally:
        os.close(lifeline)


def _complain(error: Exception, code: int) -> int:
    sys.stderr.write(f"keepwarm agent: {error}\n")
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
