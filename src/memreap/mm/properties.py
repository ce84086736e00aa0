"""What is asked of every design. One table.

Most are told by the step that breaks them (``s.breaks``), in the file of that step; the others are
asked of the shared variables, by a function of the memory and the kernel.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from memreap.check.model import Kind
from memreap.check.operation import Memory
from memreap.mm.mm_struct import MMF_OOM_SKIP, MmStruct

if TYPE_CHECKING:
    from memreap.mm.kernel import Kernel


def _is_released(s: Memory, mm: MmStruct) -> bool:
    return mm.all_free(s) or bool(s[mm.flags] & MMF_OOM_SKIP)


def _all_released(s: Memory, k: "Kernel") -> bool:
    return all(_is_released(s, mm) for mm in k.mms)


def _all_free(s: Memory, k: "Kernel") -> bool:
    return all(mm.all_free(s) for mm in k.mms)


def _adds_up(s: Memory, k: "Kernel") -> bool:
    """Once all threads are out of it: who keeps the struct are the process, if a victim, and ksmd.

    Where one never comes out, that is a deadlock, and told as one.
    """
    if any(s[task.mm] for task in k.tasks):
        return True
    return all(
        s[mm.mm_users] == 0 and s[mm.mm_count] == bool(s[process.oom_mm]) + (s[mm.slot] > 0)
        for mm, process in zip(k.mms, k.processes, strict=True)
    )


@dataclass(frozen=True, slots=True)
class Property:
    """``says``: what holds where it holds. ``short``: a heading.

    ``kind``, ``holds``: how it is asked; without them, by the steps that say they break it.
    """

    name: str
    short: str
    says: str
    kind: Kind = Kind.STEP
    holds: "Callable[[Memory, Kernel], bool] | None" = None


PROPERTIES = {
    prop.name: prop
    for prop in (
        Property("torn-tree", "tree", "Nobody walks areas that were torn down."),
        Property("pgtables-in-use", "page tables", "No page table is freed under a walker."),
        Property("stale-tlb", "TLB", "No freed page can be reached through a TLB."),
        Property("double-free", "freed twice", "Nothing is freed twice."),
        Property(
            "refcount",
            "counts",
            "No reference is lost, none used after it was given up.",
            Kind.AT_END,
            _adds_up,
        ),
        Property(
            "deadlock",
            "deadlock",
            "Nobody waits for ever but for hung I/O, or for work.",
            Kind.NO_DEADLOCK,
        ),
        Property(
            "hung-exit",
            "hung exit",
            "What never ends, I/O or a thread in the kernel, does not keep the victim's memory.",
            Kind.EVENTUALLY,
            _all_free,
        ),
        Property(
            "released",
            "released",
            "Every victim is released or skipped at some time.",
            Kind.EVENTUALLY,
            _all_released,
        ),
        Property(
            "needless-kill-at-once",
            "needless, lenient",
            "No second victim dies while the first one's memory is on its way and none is back.",
        ),
        Property(
            "needless-kill",
            "needless, strict",
            "No second victim dies while any memory of the first one is on its way.",
        ),
        Property(
            "kill-after-relief",
            "too late",
            "No second victim dies once all memory of the first one is back.",
        ),
        Property(
            "freed-after-skip",
            "SKIP is last",
            "No page is freed after the killer saw MMF_OOM_SKIP.",
        ),
        Property("robust-list", "futexes", "The list of robust futexes is whole until it is read."),
        Property("secondary-mmu", "notifiers", "No freed page can be reached by a secondary MMU."),
        Property("zeroes", "zeroes", "Zeroes of a reaped page are never taken for data."),
        Property("munlock", "munlock", "No page table is emptied while munlock works on it."),
        Property("partial-tree", "half a tree", "Nobody walks a tree that was never finished."),
        Property("queued-once", "queued once", "A victim is on the reaper's list once."),
        Property("hostage", "hostage", "Who frees memory never waits for the victim's I/O."),
    )
}
