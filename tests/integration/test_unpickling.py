"""Pickles that run code when they are loaded: the scheduler carries them and is not touched by them."""

import json
from pathlib import Path

from support.programs import roles, run_program

EXPLOIT = """
class Exploit:
    def __init__(self, file):
        self.file = file
    def __reduce__(self):
        code = f"open({self.file!r}, 'a').write(str(__import__('os').getpid()) + chr(10))"
        return exec, (code,)

@isolated(keep_alive=60)
def take(one):
    return Exploit(FILE), os.getpid()

@isolated(keep_alive=60)
def fail(one):
    error = ValueError("carries one")
    error.exploit = Exploit(FILE)
    raise error

FILE = sys.argv[0] + ".pids"
take(Exploit(FILE))
take([Exploit(FILE), b"large" * 60_000])
try:
    fail(Exploit(FILE))
except BaseException:
    pass
print(json.dumps([os.getpid(), FILE]))
"""


def test_pickles_that_run_code_run_it_in_instances_and_clients_alone(home: Path) -> None:
    """As arguments, results, exceptions and in a payload that goes by reference."""
    client, file = run_program(home, EXPLOIT).value
    ran_in = {int(line) for line in Path(file).read_text().split()}
    running = roles(home)
    assert ran_in, "the exploit did nothing at all: it would prove nothing"
    assert not ran_in & {*running["scheduler"], *running["agent"], *running.get("guardian", [])}
    assert ran_in - {client} <= set(running["instance"]), json.dumps(sorted(ran_in))
