"""The limit of open files: high for the agent, as it was for what the agent starts."""

import os
import resource
import select
import subprocess
import sys
from pathlib import Path

from support.environments import script

PROGRAM = """
import resource, subprocess, sys
from pathlib import Path
from keepwarm_worker import descriptors, processes
from keepwarm_worker.environments.control import BuildControl, run

assert resource.getrlimit(resource.RLIMIT_NOFILE) == (200, 300)
child = subprocess.Popen(["sleep", "1000"])
descriptors.lower_limit_of(child.pid)
assert resource.prlimit(child.pid, resource.RLIMIT_NOFILE) == (200, 300)
child.kill()
child.wait()
descriptors.lower_limit_of(child.pid)
descriptors.raise_own_limit()
assert resource.getrlimit(resource.RLIMIT_NOFILE) == (300, 300)
folder = Path(sys.argv[1])
options = {"environment": {}, "directory": folder, "stdin_text": "", "control": BuildControl(), "timeout_s": 20}
assert run([str(folder / "lowered")], step="lock", **options).returncode == 0
process = processes.spawn_instance(Path(sys.executable), folder / "main.py", folder, {}, folder, "m:1")
print(process.pid, flush=True)
sys.stdin.readline()
assert process.reap() == processes.ExitReason(7, None), process.reap()
process.close()
"""

RUNNER = "import resource, sys\nwhile resource.getrlimit(resource.RLIMIT_NOFILE) != (200, 300): pass\nsys.exit(7)\n"


def test_the_agent_takes_all_descriptors_and_its_children_get_what_it_was_started_with(tmp_path: Path) -> None:
    """In a process of its own, which starts what waits for its limit to be lowered."""
    script(tmp_path / "lowered", 'until [ "$(ulimit -Sn) $(ulimit -Hn)" = "200 300" ]; do :; done')
    (tmp_path / "main.py").write_text(RUNNER)
    command = ["sh", "-c", 'ulimit -Sn 200; ulimit -Hn 300; exec "$@"', "sh", sys.executable, "-c", PROGRAM]
    with subprocess.Popen(
        [*command, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as program:
        assert program.stdout is not None
        pidfd = os.pidfd_open(int(program.stdout.readline()))
        ended, _, _ = select.select([pidfd], [], [], 20)
        os.close(pidfd)
        program.communicate("go on\n", timeout=20)
    assert ended
    assert program.returncode == 0
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] != 200
