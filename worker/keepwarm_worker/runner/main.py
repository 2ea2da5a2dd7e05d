"""Entry of the runner: `python -I main.py DATA_FD CONTROL_FD SPOOL_DIR BOARD_FD`.

It loads its sibling modules under the private package name `_keepwarm_runner`, never by putting their directory on
`sys.path`: a user's own modules called `frames` or `control` must neither shadow ours nor be shadowed by them.
"""

import sys

_PACKAGE = "_keepwarm_runner"


def _run(directory: str, data_fd: int, control_fd: int, spool: str, board_fd: int) -> None:
    package = type(sys)(_PACKAGE)
    package.__path__ = [directory]
    sys.modules[_PACKAGE] = package
    __import__(_PACKAGE + ".execution")
    sys.modules[_PACKAGE + ".execution"].serve(data_fd, control_fd, spool, board_fd)


if __name__ == "__main__":
    _run(__file__.rpartition("/")[0], int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], int(sys.argv[4]))
