"""A process as bare as the ones functions run in: no site-packages, no keepwarm, cloudpickle under its private name."""

from __future__ import annotations

import importlib.util
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

__all__ = ["call_in_bare_process"]

PROGRAM = """
import pickle, sys
private = "_keepwarm_cloudpickle"
sys.path.append(sys.argv[1])

class Unpickler(pickle.Unpickler):
    def find_class(self, module, name):
        package, dot, rest = module.partition(".")
        if package == "cloudpickle":
            __import__(private)
            module = private + dot + rest
        return super().find_class(module, name)

unpickler = Unpickler(sys.stdin.buffer)
function, setup = unpickler.load()
args, kwargs = Unpickler(sys.stdin.buffer).load()
assert not [name for name in sys.modules if name.startswith(("keepwarm", "cloudpickle"))]
try:
    result = True, function(*([setup()] if setup else []), *args, **kwargs)
except Exception as error:
    result = False, error
try:
    data = pickle.dumps(result, 5)
except Exception:
    data = __import__(private).dumps(result)
sys.stdout.buffer.write(data)
"""


def call_in_bare_process(folder: Path, function: bytes, arguments: bytes | None = None) -> bytes:
    """Run a pickled function there on pickled arguments; return the pickle of (did it return?, value or exception)."""
    private = folder / "private" / "_keepwarm_cloudpickle"
    if not private.exists():
        spec = importlib.util.find_spec("cloudpickle")
        assert spec is not None
        assert spec.origin is not None
        shutil.copytree(Path(spec.origin).parent, private)
    arguments = pickle.dumps(((), {})) if arguments is None else arguments
    command = [sys.executable, "-I", "-S", "-c", PROGRAM, str(private.parent)]
    done = subprocess.run(command, input=function + arguments, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout
