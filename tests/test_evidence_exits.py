"""What exit_mmap's lock costs: counted from stories made by hand, then on the running kernel."""

import contextlib
import ctypes
import json
import mmap
import os
import random
import re
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memreap.evidence import exits_board, exits_command
from memreap.evidence.exiting import buffer_bytes, watch
from memreap.evidence.exits import (
    DEAD,
    EXECED,
    EXITS,
    FAILED,
    GOT,
    RELEASED,
    THREAD_EXITS,
    TORN,
    WAITED_NS,
    WANTS_READ,
    WANTS_WRITE,
    Counting,
    Exits,
    Happening,
)
from memreap.evidence.exits_command import ExitsOptions
from memreap.evidence.occasions import Command, Occasion
from memreap.evidence.spread import Spread
from memreap.evidence.trues import Trues
from memreap.linux import scheduling, syscalls
from memreap.linux.tracing import Instance, TracingError, tracefs
from memreap.telling import paper

MM, OTHER_MM = 0xFFFF_8880_0000_1000, 0xFFFF_8880_0000_2000
MIB = 1 << 20
NOTHING = ("met", "disputed", "left", "torn_by_others", "torn_at_exec", "torn_otherwise")


@dataclass(frozen=True)
class Life:
    """One process that exits: when, and how long each part takes, in ns."""

    pid: int
    mm: int
    at_ns: int = 1_000
    before_ns: int = 400  # from the exit's begin to the wish for the write lock
    wait_ns: int = 100
    held_ns: int = 9_000
    after_ns: int = 20_000

    @property
    def wanted_ns(self) -> int:
        return self.at_ns + self.before_ns

    @property
    def whole_ns(self) -> int:
        return self.before_ns + self.wait_ns + self.held_ns + self.after_ns

    def happenings(self, *, late: bool = False) -> list[Happening]:
        """``late``: as before 6.16."""
        got_ns = self.wanted_ns + self.wait_ns
        released_ns = got_ns + self.held_ns
        exits = (released_ns if late else self.at_ns, EXITS, self.pid, 0)
        body = [
            (self.at_ns, WANTS_READ, self.pid, self.mm),  # exit_mm's
            (self.at_ns + self.before_ns // 2, WANTS_READ, self.pid, self.mm),  # exit_mmap's
            (self.wanted_ns, WANTS_WRITE, self.pid, self.mm),
            (got_ns, GOT, self.pid, self.mm),
            (released_ns, TORN, self.pid, self.mm),
            (released_ns, RELEASED, self.pid, self.mm),
        ]
        dead = (released_ns + self.after_ns, DEAD, self.pid, 0)
        return [*body, exits, dead] if late else [exits, *body, dead]


def works(pid: int, mm: int, at_ns: int) -> list[Happening]:
    """Somebody maps memory, and faults."""
    return [
        (at_ns, WANTS_WRITE, pid, mm),
        (at_ns + 50, GOT, pid, mm),
        (at_ns + 90, RELEASED, pid, mm),
        (at_ns + 95, WANTS_READ, pid, mm),
    ]


def counted(*stories: list[Happening], late: bool = False) -> Exits:
    """Merged by time, each story in its own order."""
    counting = Counting(late=late)
    counting.feed(sorted((one for story in stories for one in story), key=lambda one: one[0]))
    return counting.finish()


def nothing_but(found: Exits, **figures: int) -> None:
    for name in (*NOTHING, "half_seen"):
        assert getattr(found, name) == figures.get(name, 0), name


@pytest.mark.parametrize("late", [False, True])
def test_an_exit_alone(late: bool) -> None:
    life = Life(7, MM)
    found = counted(works(7, MM, 100), life.happenings(late=late), late=late)
    assert (found.count, found.unnecessary, found.waited.count) == (1, 1, 0)
    assert (found.wait.total, found.held.total, found.whole.total) == (100, 9_000, life.whole_ns)
    assert found.share.median == pytest.approx(1e6 * 9_100 / life.whole_ns, rel=0.005)
    nothing_but(found)


def test_waiting_is_more_than_five_microseconds() -> None:
    lives = [Life(7, MM, wait_ns=WAITED_NS), Life(8, OTHER_MM, wait_ns=WAITED_NS + 1)]
    found = counted(*(life.happenings() for life in lives))
    assert (found.count, found.waited.count, found.unnecessary) == (2, 1, 1)
    assert found.waited.highest == WAITED_NS + 1
    nothing_but(found)


def test_whoever_it_waited_for_was_seen() -> None:
    life = Life(7, MM, at_ns=10_000, wait_ns=40_000)
    reaper = [(9_000, WANTS_READ, 3, MM)]
    found = counted(works(7, MM, 100), reaper, life.happenings())
    assert (found.waited.count, found.met, found.unnecessary) == (1, 1, 0)
    # Of the next one at the same address, it has to be seen again.
    next_one = Life(8, MM, at_ns=200_000, wait_ns=40_000)
    found = counted(reaper, life.happenings(), next_one.happenings())
    assert (found.waited.count, found.met) == (2, 1)
    again = [(150_000, WANTS_READ, 3, MM)]
    found = counted(reaper, life.happenings(), again, next_one.happenings())
    assert (found.waited.count, found.met) == (2, 2)


def test_who_was_there_and_went_is_not_what_it_waited_for() -> None:
    life = Life(7, MM, at_ns=10_000, wait_ns=40_000)
    reader = [(8_000, WANTS_READ, 3, MM), (9_000, WANTS_READ, 3, OTHER_MM)]
    dead = [(8_000, WANTS_READ, 4, MM), (9_500, DEAD, 4, 0)]
    found = counted(works(7, MM, 100), reader, dead, life.happenings())
    assert (found.waited.count, found.met) == (1, 0)


@pytest.mark.parametrize("what", [WANTS_READ, WANTS_WRITE, FAILED])
def test_a_lock_that_somebody_else_wanted_meanwhile_was_not_unnecessary(what: int) -> None:
    life = Life(7, MM)
    for at_ns, disputed in ((life.wanted_ns - 1, 0), (life.wanted_ns + 200, 1), (20_000, 0)):
        found = counted(life.happenings(), [(at_ns, what, 3, MM)])
        assert (found.count, found.disputed, found.unnecessary) == (1, disputed, 1 - disputed)
    found = counted(life.happenings(), [(life.wanted_ns + 200, what, 3, OTHER_MM)])
    assert found.disputed == 0


def test_an_exec_tears_its_old_mm_down_and_is_no_exit() -> None:
    found = counted(
        works(7, MM, 100)[:2],
        [(200, TORN, 7, MM), (201, RELEASED, 7, MM), (300, EXECED, 7, 0)],
        Life(7, OTHER_MM).happenings(),
    )
    assert found.count == 1
    nothing_but(found, torn_at_exec=1)


def test_an_exec_that_fails_is_none() -> None:
    found = counted([(100, TORN, 7, OTHER_MM)], Life(7, MM).happenings())
    assert found.count == 1
    nothing_but(found, torn_otherwise=1)


@pytest.mark.parametrize("late", [False, True])
def test_an_mm_that_a_third_holder_tears_down(late: bool) -> None:
    dies = [(1_000, WANTS_READ, 7, MM), (2_000, DEAD, 7, 0)]
    dies.insert(1 if late else 0, (1_000, EXITS, 7, 0))
    reader = [
        (5_000, WANTS_WRITE, 3, MM),
        (5_100, GOT, 3, MM),
        (6_000, TORN, 3, MM),
        (6_001, RELEASED, 3, MM),
    ]
    found = counted(dies, reader, late=late)
    assert found.count == 0
    nothing_but(found, left=int(not late), torn_by_others=1)


def test_a_third_holder_who_exits_meanwhile_is_one_all_the_same() -> None:
    dies = [(1_000, EXITS, 7, 0), (1_000, WANTS_READ, 7, MM), (2_000, DEAD, 7, 0)]
    last = [(5_000, EXITS, 3, 0), (5_100, WANTS_READ, 3, OTHER_MM), (6_000, TORN, 3, MM)]
    found = counted(dies, last, [(7_000, DEAD, 3, 0)])
    nothing_but(found, left=2, torn_by_others=1)


def test_a_child_of_vfork_leaves_the_mm_to_its_parent() -> None:
    child = [(500, EXITS, 8, 0), (510, WANTS_READ, 8, MM), (600, DEAD, 8, 0)]
    found = counted(works(7, MM, 100), child, Life(7, MM).happenings())
    assert (found.count, found.unnecessary) == (1, 1)
    nothing_but(found, left=1)
    execs = [(1_000, TORN, 7, MM), (1_100, EXECED, 7, 0)]
    nothing_but(counted(works(7, MM, 100), child, execs), left=1, torn_at_exec=1)


def test_of_many_threads_whoever_goes_last_counts() -> None:
    first = [(900, THREAD_EXITS, 8, 0), (910, WANTS_READ, 8, MM), (990, DEAD, 8, 0)]
    found = counted(first, Life(7, MM).happenings())
    assert found.count == 1
    nothing_but(found)
    # The last one to be counted (group_dead) may be overtaken on its way to exit_mm.
    overtaker = [(at, THREAD_EXITS if what == EXITS else what, pid, mm)
                 for at, what, pid, mm in Life(7, MM).happenings()]  # fmt: skip
    assert counted(first, Life(7, MM, wait_ns=40_000).happenings()).met == 0
    last = [(1_001, EXITS, 8, 0), (1_002, WANTS_READ, 8, MM), (90_000, DEAD, 8, 0)]
    found = counted(overtaker, last)
    assert found.count == 1
    nothing_but(found)


def test_a_kernel_thread_has_no_mm() -> None:
    nothing_but(counted([(1, EXITS, 9, 0), (2, DEAD, 9, 0)]))


def test_khugepaged_exit_takes_the_lock_before() -> None:
    life = Life(7, MM, before_ns=1_000)
    begin, *rest = life.happenings()
    found = counted([begin, *works(7, MM, 1_100)[:3], *rest])
    assert (found.count, found.held.total, found.unnecessary) == (1, 9_000, 1)


def test_whoever_was_half_way_when_tracing_began_is_told_apart() -> None:
    whole = Life(7, MM).happenings()
    for begin in range(1, len(whole)):
        torn = whole.index(next(one for one in whole if one[1] == TORN))
        found = counted(whole[begin:])
        assert found.count == 0
        nothing_but(found, half_seen=int(begin <= torn))


def test_whoever_is_under_way_when_tracing_ends_is_told_apart() -> None:
    found = counted(Life(7, MM).happenings()[:-1])
    assert found.count == 0
    nothing_but(found, half_seen=1)


@pytest.mark.parametrize("what", [WANTS_WRITE, GOT, RELEASED])
def test_an_event_that_was_lost_makes_no_figures_up(what: int) -> None:
    broken = [one for one in Life(7, MM).happenings() if one[1] != what]
    found = counted(broken, Life(8, MM, at_ns=50_000).happenings())
    assert (found.count, found.unnecessary) == (1, 1)
    nothing_but(found, half_seen=1)


times_ns = st.integers(0, 100_000)


@st.composite
def crowds(draw: st.DrawFn) -> list[Life]:
    """Processes that exit at once, each with an mm of its own."""
    count = draw(st.integers(1, 12))
    parts = st.tuples(*[times_ns] * 5)
    return [
        Life(100 + number, MM + 64 * number, 1_000 + at, before, wait, held, after)
        for number, (at, before, wait, held, after) in enumerate(
            draw(st.lists(parts, min_size=count, max_size=count))
        )
    ]


@given(crowds(), st.booleans(), st.randoms(use_true_random=False))
def test_a_crowd_counts_as_each_alone(crowd: list[Life], late: bool, chance: random.Random) -> None:
    noise = [works(9, OTHER_MM, chance.randrange(200_000)) for _ in range(3)]
    before = [works(life.pid, life.mm, 100) for life in crowd]
    found = counted(*before, *(life.happenings(late=late) for life in crowd), *noise, late=late)
    waited = [life.wait_ns for life in crowd if life.wait_ns > WAITED_NS]
    assert found.count == len(crowd)
    assert found.unnecessary == len(crowd) - len(waited)
    assert found.waited.total == sum(waited)
    assert found.wait.total == sum(life.wait_ns for life in crowd)
    assert found.held.total == sum(life.held_ns for life in crowd)
    assert found.whole.total == sum(life.whole_ns for life in crowd)
    assert 0 <= (found.of_time(found.wait.total + found.held.total) or 0) <= 1
    nothing_but(found)


anything = st.tuples(
    st.sampled_from(
        [WANTS_READ, WANTS_WRITE, FAILED, GOT, RELEASED, THREAD_EXITS, EXITS, TORN, EXECED, DEAD]
    ),
    st.integers(1, 3),
    st.integers(1, 2),
)


@given(st.lists(anything, max_size=60), st.booleans())
def test_whatever_happens_the_figures_stand(
    what_happens: list[tuple[int, int, int]], late: bool
) -> None:
    story = [(at_ns, *one) for at_ns, one in enumerate(what_happens, 1)]
    found = counted(story, late=late)
    ends = sum(what == DEAD for _, what, _, _ in story)
    torn = sum(what == TORN for _, what, _, _ in story)
    placed = found.torn_by_others + found.torn_at_exec + found.torn_otherwise
    assert found.count + found.left <= ends
    assert found.count + placed <= torn
    assert found.unnecessary + found.disputed + found.waited.count >= found.count
    assert found.wait.count == found.held.count == found.share.count == found.count
    assert found.share.highest <= 1_000_000
    assert json.loads(json.dumps(found.as_dict()))["exits"] == found.count


@given(st.lists(st.integers(0, 1 << 50), min_size=1), st.floats(0, 1))
def test_a_spread_is_right_to_half_a_percent(values: list[int], share: float) -> None:
    spread = Spread()
    for value in values:
        spread.add(value)
    wanted = max(1.0, share * len(values))
    exact = next(value for rank, value in enumerate(sorted(values), 1) if rank >= wanted)
    found = spread.quantile(share)
    assert found is not None
    assert abs(found - exact) <= exact / 200
    assert (spread.count, spread.total, spread.highest) == (len(values), sum(values), max(values))


def test_a_spread_of_nothing() -> None:
    assert Spread().as_dict("ns") == {
        "count": 0,
        "median_ns": None,
        "p99_ns": None,
        "max_ns": None,
    }


@pytest.mark.parametrize(
    ("share", "told"),
    [
        (None, "-"),
        (0, "0 %"),
        (1, "100 %"),
        (1e-7, "0.01 %"),
        (0.99999, "99.99 %"),
        (0.5, "50.00 %"),
    ],
)
def test_a_share_is_never_rounded_to_none_or_all(share: float | None, told: str) -> None:
    assert exits_board.percent(share) == told


def test_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    lives = [Life(7, MM), Life(8, OTHER_MM, wait_ns=70_000)]
    found = counted(*(life.happenings() for life in lives), [(1, TORN, 9, 1), (2, EXECED, 9, 0)])
    exits_board.show(found, "in 2 s", 3, paper)
    told = capsys.readouterr().out
    assert told.startswith("2 exits in 2 s; 3 events lost\n")
    assert "more than 5 us: it waited" in told
    assert "Unnecessary: 50.00 % of exits" in told
    assert "1 torn down at an exec" in told
    exits_board.show(counted(), "in 2 s", 0, paper)
    assert capsys.readouterr().out == "0 exits in 2 s; 0 events lost\n"


def test_two_ends_are_no_end(capsys: pytest.CaptureFixture[str]) -> None:
    assert exits_command.exits(ExitsOptions(("true",), seconds=1.0), paper) == 2
    assert "one of COMMAND, --seconds and --true" in capsys.readouterr().err


def test_buffers_fit_large_machines() -> None:
    assert buffer_bytes(1) == buffer_bytes(2) == 32 * MIB
    assert buffer_bytes(64) == 2 * MIB
    assert buffer_bytes(4096) == MIB


# On the running kernel.


@pytest.fixture(scope="module")
def possible_here() -> None:
    try:
        with tracefs() as root, Instance(root, buffer_bytes=4096) as instance:
            if not instance.has("mmap/exit_mmap") or not instance.has(
                "mmap_lock/mmap_lock_released"
            ):
                pytest.skip("this kernel has no tracepoints of mmap_lock and exit_mmap")
    except TracingError as error:
        pytest.skip(str(error))


on_kernel = pytest.mark.usefixtures("possible_here", "nothing_left")


class Deed:
    """An occasion: one thing is done, and these end."""

    def __init__(self, deed: Callable[[], object], *ends: int) -> None:
        self._deed, self._ends = deed, list(ends)

    def go(self) -> None:
        self._deed()

    def is_over(self, wait_s: float) -> bool:
        ended, _, _ = select.select(self._ends, [], [], wait_s)
        return len(ended) == len(self._ends)


def seen(occasion: Occasion) -> tuple[Exits, int]:
    with tracefs() as root, Instance(root, buffer_bytes=8 * MIB) as instance:
        return watch(instance, occasion), instance.lost


def instances() -> list[str]:
    with tracefs() as root:
        return [one.name for one in root.glob(f"instances/memreap-{os.getpid()}-*")]


@pytest.mark.kernel
@on_kernel
def test_two_thousand_times_true_and_none_is_lost() -> None:
    with Trues(2_000) as trues:
        found, lost = seen(trues)
        assert (trues.done, lost) == (2_000, 0)
    # The workers exit as well, and so does whoever else lives here.
    assert 2_000 <= found.count <= 12_000
    assert found.half_seen <= 5
    assert found.held.total > 0
    assert found.whole.highest < 10**10
    assert found.unnecessary >= 0.98 * found.count
    assert 0 < (found.of_time(found.wait.total + found.held.total) or 0) < 1
    assert instances() == []


@contextlib.contextmanager
def opened(pid: int) -> Iterator[int]:
    pidfd = os.pidfd_open(pid)
    try:
        yield pidfd
    finally:
        os.close(pidfd)


def overtake(pid: int, pidfd: int) -> None:
    """Kill and reap it; the reap is under way when the exit takes its CPU from it."""
    cpu = {min(os.sched_getaffinity(0))}
    os.sched_setaffinity(pid, cpu)
    os.sched_setscheduler(pid, os.SCHED_IDLE, os.sched_param(0))

    def reap() -> None:
        os.sched_setaffinity(0, cpu)  # of this thread
        scheduling.realtime(0, 1)
        syscalls.kill_and_mrelease([pidfd])

    reaper = threading.Thread(target=reap)
    with scheduling.watching():
        reaper.start()
        time.sleep(0.004)
        with contextlib.suppress(ProcessLookupError):
            scheduling.realtime(pid, 2)
        reaper.join()


@pytest.mark.kernel
@on_kernel
@pytest.mark.skipif("os.geteuid() != 0", reason="needs root")
def test_an_exit_that_overtakes_a_reap_waits_for_it(nursery: Callable[[int], int]) -> None:
    """The reap holds the lock for reading, without a CPU; the exit is done with all but that."""
    for _ in range(5):
        pid = nursery(512 * MIB)
        with opened(pid) as pidfd:
            found, lost = seen(Deed(partial(overtake, pid, pidfd), pidfd))
        assert lost == 0
        assert found.count >= 1
        if found.met:
            assert found.waited.count >= 1
            assert found.waited.highest > WAITED_NS
            assert found.unnecessary < found.count
            return
    pytest.skip("in 5 kills no exit overtook its reap")


def read_remotely(pid: int, address: int, here: mmap.mmap) -> int:
    """process_vm_readv(2): holds mm_users of the other's mm as long as it copies."""
    libc = ctypes.CDLL(None, use_errno=True)
    local = (ctypes.c_void_p * 2)(ctypes.addressof(ctypes.c_char.from_buffer(here)), len(here))
    remote = (ctypes.c_void_p * 2)(address, len(here))
    return int(libc.process_vm_readv(pid, local, 1, remote, 1, 0))


HOLDER = """
import ctypes, mmap, time
memory = mmap.mmap(-1, 256 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
ctypes.memset(address, 1, len(memory))
print(address, flush=True)
time.sleep(60)
"""


@pytest.mark.kernel
@on_kernel
def test_a_reader_of_anothers_memory_tears_it_down(
    script: Callable[..., subprocess.Popen[str]],
) -> None:
    victim = script(HOLDER)
    address = int(victim.first_line)  # type: ignore[attr-defined]
    copied: list[int] = []
    here = mmap.mmap(-1, 256 * MIB)
    reader = threading.Thread(
        target=lambda: copied.append(read_remotely(victim.pid, address, here))
    )

    def kill_under_way() -> None:
        reader.start()
        while not here[0]:
            pass
        os.kill(victim.pid, signal.SIGKILL)
        reader.join()

    with opened(victim.pid) as pidfd:
        found, lost = seen(Deed(kill_under_way, pidfd))
    assert lost == 0
    if copied == [256 * MIB] and not found.torn_by_others:
        pytest.skip("the copy was done before the victim came to exit_mm")
    assert found.torn_by_others >= 1
    assert found.left >= 1


FORKS = """
import os, sys
for _ in range(20):
    pid = os.fork()
    if pid == 0:
        os.execv("/bin/true", ["true"])
    os.waitpid(pid, 0)
"""


@pytest.mark.kernel
@on_kernel
def test_execs_are_told_apart_from_exits() -> None:
    with Command([sys.executable, "-c", FORKS]) as command:
        found, lost = seen(command)
    assert lost == 0
    assert found.torn_at_exec >= 20
    assert found.count >= 21


RUN = """
import json, sys
from memreap.evidence.exits_command import ExitsOptions, exits
from memreap.telling import paper
sys.exit(exits(ExitsOptions(**json.loads(sys.argv[1])), paper))
"""


def ran(**options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", RUN, json.dumps(options)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.kernel
@on_kernel
def test_a_command_keeps_its_exit_code_and_stdout_its_object() -> None:
    done = ran(command=["sh", "-c", "/bin/true; echo said; exit 7"], json=True)
    assert (done.returncode, done.stderr) == (7, "said\n")
    told = json.loads(done.stdout)
    assert told["exits"] >= 2
    assert told["lost"] == 0
    assert told["exits_from"] in {"sched_process_exit", "exit_mm"}
    assert told["held"]["count"] == told["exits"]


@pytest.mark.kernel
@on_kernel
@pytest.mark.parametrize(
    ("command", "code", "reason"),
    [
        (["/no/such"], 127, "No such file or directory"),
        (["/etc/passwd"], 126, "Permission denied"),
    ],
)
def test_a_command_that_cannot_run(command: list[str], code: int, reason: str) -> None:
    done = ran(command=command)
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr == f"memreap: cannot run {command[0]}: {reason}\n"


def traced(root: Path, pid: int) -> bool:
    """Whether its instance is switched on, and has seen something, read by now or not."""
    for instance in root.glob(f"instances/memreap-{pid}-*"):
        stats = "".join(file.read_text() for file in instance.glob("per_cpu/*/stats"))
        seen = re.findall(r"^(?:entries|read events): (\d+)$", stats, re.MULTILINE)
        with contextlib.suppress(FileNotFoundError):  # it is just being made
            return (instance / "tracing_on").read_text() == "1\n" and any(map(int, seen))
    return False


def interrupted(**options: object) -> subprocess.CompletedProcess[str]:
    """Ctrl-C, once it traces."""
    argv = [sys.executable, "-c", RUN, json.dumps(options)]
    with (
        tracefs() as root,
        subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as run,
    ):
        deadline_s = time.monotonic() + 20
        try:
            while not traced(root, run.pid):
                assert time.monotonic() < deadline_s
                subprocess.run(["true"], check=True)  # nobody else may exit for as long
            run.send_signal(signal.SIGINT)
            out, err = run.communicate(timeout=20)
        finally:
            run.kill()
        assert not [*root.glob(f"instances/memreap-{run.pid}-*")]
    return subprocess.CompletedProcess(argv, run.returncode, out, err)


@pytest.mark.kernel
@on_kernel
def test_ctrl_c_ends_it_with_what_was_seen() -> None:
    done = interrupted()
    assert (done.returncode, done.stderr) == (0, "")
    assert "0 events lost" in done.stdout


@pytest.mark.kernel
@on_kernel
def test_ctrl_c_leaves_a_count_unfinished() -> None:
    done = interrupted(true=1_000_000, json=True)
    assert (done.returncode, done.stderr) == (130, "")
    assert 0 < json.loads(done.stdout)["exits"] < 1_000_000


@pytest.mark.kernel
def test_nobody_may_trace(as_nobody: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    done = as_nobody("-c", RUN, json.dumps({"seconds": 1}))
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.startswith("memreap: ")
    assert done.stderr.count("\n") == 1
