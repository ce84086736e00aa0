"""What is known of a process before it is killed. After the kill nothing is added to it."""

from dataclasses import dataclass
from typing import Any

from memreap.linux import cgroups, procfs

THREADS_EXAMINED_MAX = 256  # states are read one file a thread; tids come in one listing


@dataclass(frozen=True, slots=True)
class Facts:
    """One process, read once, while a pidfd on it was open."""

    pid: int
    start_ticks: int
    comm: str
    state: str
    ppid: int
    kernel_thread: bool
    tids: tuple[int, ...]
    thread_states: str
    oom_score: int
    oom_score_adj: int
    memory: procfs.Memory
    usage_file: str | None

    @property
    def dead(self) -> bool:
        """A zombie: it has no memory any more, its parent has not waited for it."""
        return self.state in "ZX" and len(self.tids) == 1

    @property
    def living_tid(self) -> int:
        """A thread that still has the mm; the leader may be a zombie before its threads."""
        states = zip(self.tids, self.thread_states, strict=False)
        return next((tid for tid, state in states if state not in "ZX"), self.pid)

    def as_message(self) -> dict[str, object]:
        """As JSON can carry it."""
        return fields_of(self) | {"memory": fields_of(self.memory)}

    @classmethod
    def from_message(cls, message: dict[str, object]) -> "Facts":
        """The inverse of ``as_message``."""
        fields = dict(message)
        memory = fields.pop("memory")
        tids = fields.pop("tids")
        assert isinstance(memory, dict)
        assert isinstance(tids, list)
        return cls(memory=procfs.Memory(**memory), tids=tuple(tids), **fields)  # type: ignore[arg-type]


def fields_of(one: Any) -> dict[str, Any]:
    """Of a dataclass with slots; as dataclasses.asdict, but nothing in it is copied, or changed."""
    return {name: getattr(one, name) for name in type(one).__slots__}


def read(pid: int, proc: procfs.Procfs) -> Facts:
    """Read the facts of a live process. May hang: only where hanging does no harm.

    Raises FileNotFoundError or ProcessLookupError when it is gone.
    """
    return complete(proc.stat(pid), proc.memory(pid), proc.oom_score_adj(pid), proc)


def complete(
    stat: procfs.Stat,
    memory: procfs.Memory,
    oom_score_adj: int,
    proc: procfs.Procfs,
    mounts: cgroups.Mounts | None = None,
) -> Facts:
    """The same, where so much was read already. May hang, and raises, as ``read`` does."""
    pid = stat.pid
    tids = tuple(proc.threads(pid))
    return Facts(
        pid=pid,
        start_ticks=stat.start_ticks,
        comm=stat.comm,
        state=stat.state,
        ppid=stat.ppid,
        kernel_thread=stat.is_kernel_thread,
        tids=tids,
        thread_states=_thread_states(pid, tids, stat.state, proc),
        oom_score=proc.oom_score(pid),
        oom_score_adj=oom_score_adj,
        memory=memory,
        usage_file=cgroups.memory_usage_file(pid, proc, mounts, tid=proc.seat(stat)),
    )


def quick(pid: int, proc: procfs.Procfs) -> Facts:
    """What can be read of a process without pinning anything: its name, threads and adj.

    Raises FileNotFoundError or ProcessLookupError when it is gone.
    """
    tids = tuple(proc.threads(pid))
    return Facts(
        pid=pid,
        start_ticks=0,
        comm=proc.comm(pid),
        state="?",
        ppid=0,
        kernel_thread=False,
        tids=tids,
        thread_states="?" * len(tids),
        oom_score=0,
        oom_score_adj=proc.oom_score_adj(pid),
        memory=procfs.Memory(),
        usage_file=None,
    )


def _thread_states(pid: int, tids: tuple[int, ...], leader: str, proc: procfs.Procfs) -> str:
    if tids == (pid,):
        return leader
    states = []
    for tid in tids[:THREADS_EXAMINED_MAX]:
        try:
            states.append(proc.thread_state(pid, tid))
        except (FileNotFoundError, ProcessLookupError):
            states.append("X")
    return "".join(states)
