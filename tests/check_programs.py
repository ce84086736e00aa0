"""The benchmark programs of the literature on stateless model checking, as models.

Each is what its C program does to atomic variables, one operation an access; locals stay in the
task. What is never looked at is not returned. The counts that others published for them under
sequential consistency stand in ``tests/test_check_ground_truth.py``.

indexer: Flanagan and Godefroid, POPL 2005. readers, lastzero: Abdulla, Aronsson, Jonsson and
Sagonas, POPL 2014 and JACM 2017. fib_bench: the competition on software verification. The others
came with the stateless model checkers for weak memory, TruSt (POPL 2022) among them.
"""

from collections.abc import Callable, Sequence
from typing import Any

from memreap.check.footprint import Footprint
from memreap.check.model import Model
from memreap.check.operation import BOOL, Memory, Operation, Steps, Var, become, operation


@operation()
def store(s: Memory, x: Var, value: int) -> None:
    s[x] = value


@operation()
def increment(s: Memory, x: Var) -> None:
    s[x] += 1


@operation(BOOL)
def compare_and_swap(s: Memory, x: Var, old: int, new: int) -> bool:
    """One that fails is a read."""
    if s[x] != old:
        return False
    s[x] = new
    return True


def _load(s: Memory, x: Var) -> Any:
    return s[x]


def load(x: Var, values: Sequence[int]) -> Operation:
    """``values``: all that the variable may ever hold; a task follows each of them."""
    return Operation(_load, (x,), tuple(values), "load")


def limits(operation_: Operation) -> Footprint:
    """Each of these touches what it is given, and a load changes nothing."""
    touched = sum(1 << arg for arg in operation_.args if isinstance(arg, Var))
    return Footprint(touched, 0 if operation_.function is _load else touched)


def one_step(make: Callable[..., Operation], *args: Any) -> Steps:
    yield make(*args)


def steps(*operations: Operation) -> Steps:
    for one in operations:  # noqa: UP028 - a tuple cannot be sent a result
        yield one


def readers(n: int) -> Model:
    model = Model(f"readers({n})")
    x = model.var("x", 0)
    model.task("writer", one_step, store, x, 42)
    for i in range(n):
        model.task(f"reader{i}", one_step, load, x, (0, 42))
    return model


def lastzero(n: int) -> Model:
    """``array[i]`` is at most i, and ``array[0]`` stays 0, so the reader comes to an end."""
    model = Model(f"lastzero({n})")
    array = tuple(model.var(f"array[{i}]", 0) for i in range(n + 1))
    model.task("reader", _last_zero, array, n)
    for i in range(1, n + 1):
        model.task(f"writer{i}", _one_more, array, i)
    return model


def _last_zero(array: Sequence[Var], i: int) -> Steps:
    value = yield load(array[i], range(i + 1))
    return become(_last_zero, array, i - 1) if value else None


def _one_more(array: Sequence[Var], i: int) -> Steps:
    value = yield load(array[i - 1], range(i))
    yield store(array[i], value + 1)


SIZE, INSERTS = 128, 4


def indexer(n: int) -> Model:
    """Threads put four entries each into a hash table; they first collide at 12 threads."""
    return indexer_of(range(n))


def indexer_of(threads: Sequence[int]) -> Model:
    """Only some of the threads."""
    model = Model(f"indexer{tuple(threads)}")
    table = tuple(model.var(f"table[{i}]", 0) for i in range(SIZE))
    for tid in threads:
        model.task(f"thread{tid}", _insert, table, tid, 0, tid * 7 % SIZE)
    return model


def _insert(table: Sequence[Var], tid: int, i: int, h: int) -> Steps:
    done = yield compare_and_swap(table[h], 0, i * 11 + tid)
    if not done:
        return become(_insert, table, tid, i, (h + 1) % SIZE)
    if i + 1 < INSERTS:
        return become(_insert, table, tid, i + 1, ((i + 1) * 11 + tid) * 7 % SIZE)
    return None


def ainc(n: int) -> Model:
    return _incrementing(Model(f"ainc({n})"), "x", n)


def binc(n: int) -> Model:
    return _incrementing(Model(f"binc({n})"), "xy", n)


def cinc(n: int) -> Model:
    return _incrementing(Model(f"cinc({n})"), "xyz", n)


def _incrementing(model: Model, names: str, n: int) -> Model:
    variables = [model.var(name, 0) for name in names]
    for i in range(n):
        model.task(f"thread{i}", steps, *(increment(x) for x in variables))
    return model


def rw(n: int) -> Model:
    model = Model(f"rw({n})")
    x = model.var("x", 0)
    for i in range(n):
        model.task(f"thread{i}", steps, load(x, range(n)), store(x, i))
    return model


def casrot(n: int) -> Model:
    model = Model(f"casrot({n})")
    x = model.var("x", 0)
    for new in range(1, n + 1):
        model.task(f"thread{new}", one_step, compare_and_swap, x, new - 1, new)
    return model


def casw(n: int) -> Model:
    model = Model(f"casw({n})")
    x = model.var("x", 0)
    for i in range(n):
        model.task(f"thread{i}", steps, compare_and_swap(x, 0, 1), store(x, i + 3))
    return model


def wcas(n: int) -> Model:
    model = Model(f"wcas({n})")
    x = model.var("x", 0)
    model.task("writer", one_step, store, x, 2)
    for i in range(n):
        model.task(f"thread{i}", one_step, compare_and_swap, x, 2, 3)
    return model


def fib_bench(n: int) -> Model:
    """Two threads add each other's variable to their own, n times; a third looks at both."""
    model = Model(f"fib_bench({n})")
    x, y = model.var("x", 1), model.var("y", 1)
    largest, following = 1, 1
    for _ in range(2 * n):
        largest, following = following, largest + following
    values = range(1, following + 1)
    model.task("thread1", _add, x, y, x, values, n)
    model.task("thread2", _add, x, y, y, values, n)
    model.task("thread3", steps, load(x, values), load(y, values))
    return model


def _add(x: Var, y: Var, to: Var, values: Sequence[int], left: int) -> Steps:
    mine = yield load(x, values)
    other = yield load(y, values)
    return become(_put, x, y, to, values, left, mine + other)


def _put(x: Var, y: Var, to: Var, values: Sequence[int], left: int, value: int) -> Steps:
    yield store(to, value)
    return become(_add, x, y, to, values, left - 1) if left > 1 else None
