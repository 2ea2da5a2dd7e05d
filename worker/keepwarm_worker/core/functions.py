"""Function bodies, kept once per node up to a limit, and the payloads that are on this node's disk.

Owns ``state.functions`` (oldest use first), ``state.wanted_functions`` and ``state.payloads``. Who waits for what is
answered here; what then happens to an attempt is decided in ``attempts``.
"""

from keepwarm_wire import messages as wire
from keepwarm_worker.core.effects import DropPayload, FetchPayload
from keepwarm_worker.core.state import AgentState, Function, PayloadFile

__all__ = [
    "add_function",
    "find_function",
    "forget_function",
    "hold_payload",
    "is_here",
    "release_payload",
    "stop_wanting",
    "want_function",
]


def add_function(state: AgentState, message: wire.FunctionBody) -> None:
    """Keep a function; a body that is a reference is fetched first."""
    if message.version in state.functions:
        return
    body = message.body
    function = state.functions[message.version] = Function(message, available=isinstance(body, bytes))
    state.function_bytes += function.size
    if isinstance(body, wire.Reference):
        payload = _payload(state, body)
        payload.versions[message.version] = None
        function.available = payload.available
    _evict_functions(state)


def find_function(state: AgentState, version: bytes) -> Function | None:
    """The function, if its bytes are known or on their way; looking counts as use."""
    function = state.functions.pop(version, None)
    if function is not None:
        state.functions[version] = function
    return function


def want_function(state: AgentState, version: bytes, attempt: int) -> None:
    """Note that an attempt waits for a function, and ask for it if it is not even on its way."""
    state.wanted_functions.setdefault(version, {})[attempt] = None
    if version not in state.functions:
        state.say(wire.NeedFunction(version))


def stop_wanting(state: AgentState, version: bytes, attempt: int) -> None:
    waiting = state.wanted_functions.get(version)
    if waiting is not None:
        waiting.pop(attempt, None)
        if not waiting:
            del state.wanted_functions[version]


def forget_function(state: AgentState, version: bytes) -> None:
    function = state.functions.pop(version)
    state.function_bytes -= function.size
    if isinstance(function.message.body, wire.Reference):
        release_payload(state, function.message.body.payload_id, version=version)


def hold_payload(state: AgentState, reference: wire.Reference, attempt: int) -> None:
    """Have a payload fetched for an attempt, once however many need it."""
    _payload(state, reference).attempts[attempt] = None


def is_here(state: AgentState, payload: wire.Payload) -> bool:
    """Whether the bytes are on this node."""
    return isinstance(payload, bytes) or state.payloads[payload.payload_id].available


def release_payload(state: AgentState, payload_id: bytes, attempt: int = 0, version: bytes = b"") -> None:
    """An attempt or a function needs a payload no more; the last one to say so has it deleted."""
    payload = state.payloads.get(payload_id)
    if payload is None:
        return
    payload.attempts.pop(attempt, None)
    payload.versions.pop(version, None)
    if not payload.attempts and not payload.versions:
        del state.payloads[payload_id]
        state.effects.append(DropPayload(payload_id))


def _payload(state: AgentState, reference: wire.Reference) -> PayloadFile:
    payload = state.payloads.get(reference.payload_id)
    if payload is None:
        payload = state.payloads[reference.payload_id] = PayloadFile(reference)
        state.effects.append(FetchPayload(reference))
    return payload


def _evict_functions(state: AgentState) -> None:
    """Forget the longest unused functions over the limit, but none that an attempt needs now, nor the newest."""
    if state.function_bytes <= state.config.function_bytes_max:
        return
    needed = {attempt.command.version for attempt in state.attempts.values() if attempt.outcome is None}
    for version in list(state.functions)[:-1]:
        if state.function_bytes <= state.config.function_bytes_max:
            return
        if version not in needed:
            forget_function(state, version)
