"""Random mutants: one small change somewhere in the cores, chosen by a seed, written out as source again.

Operators: a comparison turned, a condition negated, ``and`` for ``or``, a number off by one, a statement dropped. They
find what nobody thought of naming. A survivor is a defect of the tests, or changes nothing that anybody is promised:
``survivors.md`` says which, one line each.
"""

import ast
from collections.abc import Callable, Container, Iterator
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

from mutants.hunting import Verdict, hunt
from mutants.patching import source_of

__all__ = ["MODULES", "TESTS_OF", "Change", "changes_of", "hunt_random", "random_changes", "reasons"]

_SCHEDULER_MODULES = ("beats", "calls", "dispatching", "instances", "leases", "nodes", "outcomes", "recovery", "wheel")
_AGENT_MODULES = ("attempts", "instances", "link", "outcomes", "timers")
MODULES = (
    *(f"keepwarm_scheduler.core.{name}" for name in _SCHEDULER_MODULES),
    *(f"keepwarm_worker.core.{name}" for name in _AGENT_MODULES),
)
"""What leases and calls depend on; policy (where to start, whom to evict) has a right answer only in its own tests."""

_LEASES = (
    "property/test_lease_contract.py",
    "property/test_lease_contract_repairs.py",
    "property/test_lease_invariants.py",
)
TESTS_OF = {
    "keepwarm_scheduler.core": ("unit/scheduler/core", *_LEASES, "property/test_wheel.py"),
    "keepwarm_worker.core": ("unit/worker/core", "property/test_agent_core.py", *_LEASES),
}
"""The quickest first: the first failure ends a run."""

LIMIT_S = 400
"""All of a core's tests take a minute or so."""

SURVIVORS = Path(__file__).with_name("survivors.md")

_TURNED: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip


class Change(NamedTuple):
    """One mutation: where it is and what it does, and the whole module with it."""

    module: str
    line: int
    what: str
    source: str

    @property
    def name(self) -> str:
        """How a verdict and ``survivors.md`` call it: by module, function and change, not by line, which moves."""
        return f"{self.module.removeprefix('keepwarm_')}: {self.what}"


Mutate = Callable[[ast.AST], str | None]


def _compare(node: ast.AST) -> str | None:
    if not isinstance(node, ast.Compare) or type(node.ops[0]) not in _TURNED:
        return None
    before = ast.unparse(node)
    node.ops[0] = _TURNED[type(node.ops[0])]()
    return f"{before} -> {ast.unparse(node)}"


def _negate(node: ast.AST) -> str | None:
    if not isinstance(node, ast.If | ast.While | ast.IfExp):
        return None
    before = ast.unparse(node.test)
    node.test = ast.UnaryOp(ast.Not(), node.test)
    return f"if {before} -> if not"


def _swap_boolean(node: ast.AST) -> str | None:
    if not isinstance(node, ast.BoolOp):
        return None
    before = ast.unparse(node)
    node.op = ast.Or() if isinstance(node.op, ast.And) else ast.And()
    return f"{before} -> {ast.unparse(node)}"


def _off_by_one(node: ast.AST) -> str | None:
    if not isinstance(node, ast.Constant) or type(node.value) is not int:
        return None
    node.value += 1
    return f"{node.value - 1} -> {node.value}"


def _drop(node: ast.AST) -> str | None:
    """The first statement of a block that stands for itself: a call or a change of something."""
    body = getattr(node, "body", None)
    if not isinstance(body, list):
        return None
    for index, statement in enumerate(body):
        is_call = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call)
        if is_call or isinstance(statement, ast.AugAssign):
            body[index] = ast.Pass()
            return f"without {ast.unparse(statement)}"
    return None


_OPERATORS: tuple[Mutate, ...] = (_compare, _negate, _swap_boolean, _off_by_one, _drop)


def _functions(tree: ast.Module) -> Iterator[ast.FunctionDef]:
    yield from (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))


def _applied(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Make one change after another to a tree, and take each back: between two steps the tree holds just one."""
    for function in _functions(tree):
        for node in list(ast.walk(function)):
            for operator in _OPERATORS:
                kept = {name: list(value) if isinstance(value, list) else value for name, value in vars(node).items()}
                what = operator(node)
                if what is not None:
                    yield f"{function.name}: {what}".replace("\n", " "), getattr(node, "lineno", function.lineno)
                    vars(node).clear()
                    vars(node).update(kept)


def changes_of(module: str, source: str, wanted: Container[int] | None = None) -> Iterator[Change]:
    """The changes that the operators can make in the functions of a module, or those of these numbers, in order."""
    tree = ast.parse(source)
    for number, (what, line) in enumerate(_applied(tree)):
        if wanted is None or number in wanted:
            yield Change(module, line, what, ast.unparse(ast.fix_missing_locations(tree)))


def random_changes(seed: int, count: int) -> list[Change]:
    """So many different changes. Which ones follows from their names: other code elsewhere changes few of them."""
    sources = {module: source_of(module) for module in MODULES}
    every = [
        (sha256(f"{seed} {module} {what}".encode()).digest(), module, number)
        for module, source in sources.items()
        for number, (what, _) in enumerate(_applied(ast.parse(source)))
    ]
    chosen = sorted(every)[:count]
    return [
        change
        for module, source in sources.items()
        for change in changes_of(module, source, {number for _, each, number in chosen if each == module})
    ]


def _tests_of(module: str) -> tuple[str, ...]:
    return next(tests for prefix, tests in TESTS_OF.items() if module.startswith(prefix))


def hunt_random(seed: int, count: int, processes: int = 2) -> list[Verdict]:
    """Random changes, each against the tests of its core."""

    def run(change: Change) -> Verdict:
        return hunt(change.name, {change.module: change.source}, _tests_of(change.module), LIMIT_S)

    with ThreadPoolExecutor(processes) as pool:
        return list(pool.map(run, random_changes(seed, count)))


def reasons() -> dict[str, str]:
    """Why each survivor that is known may survive, by its name."""
    rows = [line.split("|") for line in SURVIVORS.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    return {row[1].strip().strip("`").replace("\\", ""): row[2].strip() for row in rows}
