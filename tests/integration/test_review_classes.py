"""Classes of the script, there and back: they are the same ones in the next program too, and nobody changes them."""

from pathlib import Path

from support.programs import run_program

CLASSES = """
import dataclasses, enum

class Color(enum.Enum):
    RED = 1

@dataclasses.dataclass
class Point:
    x: int

class Broken(Exception):
    pass

def main():
    class Hidden:
        pass

    @isolated(keep_alive=300)
    def make(): return Point(1), Hidden()

    @isolated(keep_alive=300)
    def compare(point, color): return point == Point(1), color is Color.RED, isinstance(color, Color), os.getpid()

    @isolated(keep_alive=300)
    def fail(): raise Broken

    point, hidden = make()
    try:
        fail()
    except Exception as error:
        caught = type(error) is Broken
    *there, process_id = compare(Point(1), Color.RED)
    print(json.dumps([process_id, [point == Point(1), type(hidden) is Hidden, caught, *there]]))

main()
"""


def test_classes_are_the_same_ones_for_the_next_program(shared_home: Path) -> None:
    """A process that is still warm has the classes of the program before; the next one's are one with them."""
    first, found = run_program(shared_home, CLASSES).value
    assert found == [True] * 6
    second, found = run_program(shared_home, CLASSES).value
    assert (second, found) == (first, [True] * 6)


def test_a_result_leaves_the_programs_classes_as_they_are(shared_home: Path) -> None:
    """An instance comes back; its class keeps the methods and the values that it has here."""
    text = """
    seen = []
    class Counter:
        total = 0
        def note(self): seen.append(self)
    @isolated(keep_alive=300)
    def make(): return Counter()
    make()
    method, Counter.total = Counter.note, 10
    counter = make()
    counter.note()
    print(json.dumps([Counter.total, Counter.note is method, seen == [counter]]))
    """
    assert run_program(shared_home, text).value == [10, True, True]


def test_classes_that_hold_what_pickle_takes_for_a_name_or_cannot_take(shared_home: Path) -> None:
    """Types of typing, a property with a lock in it, slots: there and back."""
    text = """
    import dataclasses, functools, typing
    UserId = typing.NewType("UserId", int)
    P = typing.ParamSpec("P")
    class Record(typing.Generic[P]):
        __slots__ = ("number",)
    @dataclasses.dataclass
    class User:
        number: UserId
        records: list
        @functools.cached_property
        def doubled(self): return self.number * 2
    @isolated(keep_alive=300)
    def follow(user):
        record = Record()
        record.number = UserId(user.doubled)
        return User(UserId(user.number + 1), [*user.records, record])
    user = follow(follow(User(UserId(1), [])))
    print(json.dumps([type(user) is User, user.doubled, [record.number for record in user.records]]))
    """
    assert run_program(shared_home, text).value == [True, 6, [2, 4]]


def test_processes_spawned_by_a_function_do_not_run_the_script_again(shared_home: Path) -> None:
    """multiprocessing's spawn runs the main module's file in each child; here that is a file of another program."""
    text = """
    with open(sys.argv[0] + ".runs", "a") as file:
        file.write("x")
    @isolated(keep_alive=300, timeout=30)
    def spread(numbers):
        import multiprocessing
        with multiprocessing.get_context("spawn").Pool(2) as pool:
            return pool.map(abs, numbers)
    result = spread([-1, -2])
    print(json.dumps([result, os.path.getsize(sys.argv[0] + ".runs")]))
    """
    assert run_program(shared_home, text).value == [[1, 2], 1]
