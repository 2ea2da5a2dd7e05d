"""After ``forbid_unpickling`` no pickle can call anything, whoever loads it and in whatever way."""

import subprocess
import sys
from pathlib import Path

PROGRAM = """
import os, pickle, sys
from keepwarm_scheduler.security.unpickling import UnpicklingForbiddenError, forbid_unpickling

class Exploit:
    def __reduce__(self):
        return os.mkdir, (sys.argv[1],)

exploit = pickle.dumps(Exploit())
forbid_unpickling()
for load in (pickle.loads, pickle._loads):
    try:
        load(exploit)
    except UnpicklingForbiddenError:
        continue
    sys.exit("it was loaded")
assert pickle.loads(pickle.dumps([1, "plain data"])) == [1, "plain data"]
"""


def test_an_exploit_has_no_effect(tmp_path: Path) -> None:
    """In a process of its own, for the hook stays for ever."""
    target = tmp_path / "made"
    done = subprocess.run([sys.executable, "-c", PROGRAM, str(target)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert not target.exists()
