"""A process of an incident: its place in the model of the kernel, and what became of it."""

from dataclasses import dataclass, field
from math import ceil

from memreap.mm.mm_struct import MmStruct, SignalStruct, TaskStruct
from memreap.simulate.costs import HUGE_BYTES
from memreap.simulate.setup import Hang, Io, ProcessSetup, Setup
from memreap.simulate.tasks import Task

CHUNK_BYTES = 32 << 20  # of a page of the model: some 10,000 small pages are freed at once
CHUNKS_MIN, CHUNKS_MAX = 4, 64


def chunks(setup: ProcessSetup, machine: Setup) -> int:
    """How many pages of the model its memory is."""
    there = sum(one.size_bytes for one in machine.nodes)
    most_bytes = min(setup.until_bytes, there) if setup.rate_bytes_s else setup.size_bytes
    return max(CHUNKS_MIN, min(CHUNKS_MAX, ceil(most_bytes / CHUNK_BYTES)))


def features(setup: ProcessSetup) -> frozenset[str]:
    """What its address space has, as the model names it."""
    has = set()
    if setup.io is not Io.NONE:
        has.add("aio")
    if setup.hangs in (Hang.LOCK, Hang.LOCK_HELD):
        has.add("locked")
    if setup.hangs is Hang.LOCK:
        has.add("stuck lock")
    if setup.hangs is Hang.THREAD:
        has.add("hung thread")
    return frozenset(has)


@dataclass(eq=False, slots=True)
class Process:
    """One."""

    number: int
    setup: ProcessSetup
    mm: MmStruct
    signals: tuple[SignalStruct, ...]  # its own, and those of who shares its memory
    threads: tuple[TaskStruct, ...]  # its own
    others: tuple[TaskStruct, ...]  # of who shares its memory, one each
    weight: float
    tasks: list[Task] = field(default_factory=list)  # once it is killed
    doomed_on: int | None = None  # the node for which a killer is about to kill it
    killed_s: float | None = None  # SIGKILL, by whomever; or it ended by itself
    stop_bytes: float = 0.0  # resident, when it was killed
    hold_s: float = 0.0  # for which whoever kills it keeps it from exiting

    @property
    def main(self) -> TaskStruct:
        """Its first thread."""
        return self.threads[0]

    @property
    def name(self) -> str:
        """As the scenario has it."""
        return self.setup.name

    @property
    def chunk_pages(self) -> float:
        """Real pages that a page of the model stands for."""
        return self.stop_bytes / len(self.mm.pages) / self.setup.page_bytes

    @property
    def is_huge(self) -> bool:
        """Whether its pages are huge."""
        return self.setup.page_bytes >= HUGE_BYTES
