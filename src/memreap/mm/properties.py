"""What is asked of every design. One table.

How each is asked in a scenario is said in ``scenarios``; most are told by the step that breaks
them, in the file of that step.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Property:
    """``says``: what holds where it holds. ``short``: a heading."""

    name: str
    short: str
    says: str


PROPERTIES = {
    prop.name: prop
    for prop in (
        Property("torn-tree", "tree", "Nobody walks areas that were torn down."),
        Property("pgtables-in-use", "page tables", "No page table is freed under a walker."),
        Property("stale-tlb", "TLB", "No freed page can be reached through a TLB."),
        Property("double-free", "freed twice", "Nothing is freed twice."),
        Property("refcount", "counts", "No reference is lost, none used after it was given up."),
        Property("deadlock", "deadlock", "Nobody waits for ever but for hung I/O, or for work."),
        Property(
            "hung-aio", "hung AIO", "I/O that never completes does not keep the victim's memory."
        ),
        Property("released", "released", "Every victim is released or skipped at some time."),
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
