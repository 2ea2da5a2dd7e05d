"""keepwarm: run Python functions on a cluster, each in its own isolated environment, kept warm between calls.

    from keepwarm import isolated

    @isolated(keep_alive=10, requirements=["requests"])
    def get_response(url):
        import requests
        return requests.get(url).text

    get_response("https://www.example.com")         # cold: the environment is made, then the function runs
    get_response("https://www.anotherexample.com")  # warm: milliseconds, and the 10 seconds start again

Rules: importing this imports the standard library only and touches no network; what is heavy (pyzmq, cloudpickle,
packaging) is imported by the first call that needs it. Nothing here is for one operating system only.
"""

from typing import TYPE_CHECKING

from keepwarm.decorator import isolated
from keepwarm.detached import CallStatus, DetachedCall, attach
from keepwarm.errors import (
    ArgumentNotSerializable,
    ArgumentsNotLoadable,
    BuildForbidden,
    CallCancelled,
    CallLost,
    CallPoisoned,
    CallTimeout,
    ClusterStartError,
    ClusterUnreachable,
    CredentialsRefused,
    EnvironmentBuildError,
    EnvironmentIntegrityError,
    FunctionNotLoadable,
    FunctionNotSerializable,
    IndexUnreachable,
    InternalError,
    KeepwarmError,
    KeyConflict,
    NodeDiskFull,
    NodeLost,
    NoFeasibleNode,
    OptionError,
    OutOfMemory,
    PayloadRefused,
    ProcessDied,
    ProtocolMismatch,
    PythonMismatch,
    PythonMissing,
    RemoteError,
    RemoteTraceback,
    RequirementsError,
    ResultExpired,
    ResultNotLoadable,
    ResultNotSerializable,
    SchedulerRefused,
    TooManyCalls,
    UnknownCall,
)
from keepwarm.explanation import Explanation
from keepwarm.function import IsolatedFunction
from keepwarm.futures import Future
from keepwarm.options import Options, Resources, Retry, Timeouts

__all__ = [
    "isolated",
    "attach",
    "DetachedCall",
    "CallStatus",
    "IsolatedFunction",
    "Future",
    "Explanation",
    "Options",
    "Resources",
    "Retry",
    "Timeouts",
    "__version__",
    "KeepwarmError",
    "OptionError",
    "FunctionNotSerializable",
    "FunctionNotLoadable",
    "ArgumentNotSerializable",
    "ArgumentsNotLoadable",
    "ResultNotLoadable",
    "TooManyCalls",
    "PayloadRefused",
    "KeyConflict",
    "UnknownCall",
    "ResultExpired",
    "RemoteTraceback",
    "RemoteError",
    "ResultNotSerializable",
    "EnvironmentBuildError",
    "RequirementsError",
    "BuildForbidden",
    "IndexUnreachable",
    "CredentialsRefused",
    "EnvironmentIntegrityError",
    "PythonMissing",
    "PythonMismatch",
    "NodeDiskFull",
    "ProcessDied",
    "OutOfMemory",
    "CallPoisoned",
    "NodeLost",
    "CallLost",
    "NoFeasibleNode",
    "ClusterUnreachable",
    "ClusterStartError",
    "ProtocolMismatch",
    "SchedulerRefused",
    "InternalError",
    "CallTimeout",
    "CallCancelled",
]

if TYPE_CHECKING:
    __version__: str
else:

    def __getattr__(name: str) -> str:
        """Look the version up only when it is asked for: that reads files."""
        if name != "__version__":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib.metadata import version

        return version("keepwarm")
