"""Bugs that were found in the real kernel, and the commits that mended them. One table.

For each: a scenario in which the kernel without the commit breaks a property, and the one with it
does not.
"""

from dataclasses import dataclass

from memreap.mm.designs.of_2017 import Merged414
from memreap.mm.designs.pre_4_14 import Pre414
from memreap.mm.designs.since_4_15 import V415, V417, V419, V515, V518, V515First
from memreap.mm.kernel import Kernel, without
from memreap.mm.scenarios import SCENARIOS, Scenario


@dataclass(frozen=True, slots=True)
class Bug:
    """``commit`` mended it; where it is ``brought``, that commit made it, and it was accepted.

    ``needs``: actors. Without any one of them there is nothing to be found in ``before`` either.
    """

    commit: str
    what: str
    prop: str
    scenario: Scenario
    before: type[Kernel]
    after: type[Kernel]
    needs: tuple[str, ...]
    cve: str = ""
    brought: bool = False


BUGS = {
    bug.commit: bug
    for bug in (
        Bug(
            "687cb0884a71",
            "The reaper gathers as if nobody could be running (fullmm); arm64 then flushes no TLB,"
            " and a thread that still runs reaches freed pages.",
            "stale-tlb",
            SCENARIOS["threads"],
            Merged414,
            V415,
            ("allocator", "oom_reaper", "running thread"),
            "CVE-2017-18202",
        ),
        Bug(
            "4837fe37adff",
            "Somebody else drops the last mm_users: it is no OOM victim, so it does not wait for"
            " the reaper, and frees the areas under it.",
            "torn-tree",
            SCENARIOS["reader"],
            Merged414,
            V415,
            ("allocator", "oom_reaper", "reader"),
        ),
        Bug(
            "27ae357fa82b",
            "munlock clears VM_LOCKED and uses a page table's lock; the reaper, who looks for"
            " VM_LOCKED, empties the table in between.",
            "munlock",
            SCENARIOS["mlock"],
            V415,
            V417,
            ("allocator", "oom_reaper"),
            "CVE-2018-1000200",
        ),
        Bug(
            "337546e83fc7",
            "Who is killed by hand has no MMF_OOM_VICTIM: exit_mmap does not wait for"
            " process_mrelease, and frees page tables under it.",
            "pgtables-in-use",
            SCENARIOS["mrelease"],
            V515First,
            V515,
            ("mrelease",),
        ),
        Bug(
            "ba535c1caf3e",
            "process_mrelease holds mm_users since 337546e83fc7, so the caller may be the last"
            " one out, and waits for the victim's I/O in exit_aio.",
            "hostage",
            SCENARIOS["mrelease-aio"],
            V515,
            V518,
            ("mrelease",),
        ),
        Bug(
            "f798a1d4f94d",
            "mm->mmap still points to areas that were freed; process_mrelease, which was late for"
            " the lock, walks them.",
            "torn-tree",
            SCENARIOS["mrelease"],
            without(V518, "f798a1d4f94d"),
            V518,
            ("mrelease",),
        ),
        Bug(
            "4d4bbd8526a8",
            "The reaper frees pages without telling a secondary MMU, which goes on using them.",
            "secondary-mmu",
            SCENARIOS["notifier"],
            without(Merged414, "4d4bbd8526a8"),
            Merged414,
            ("allocator", "oom_reaper"),
        ),
        Bug(
            "e4a38402c36e",
            "The reaper takes the page with the list of robust futexes before the exit path has"
            " read it: whoever waits for one of them waits for ever.",
            "robust-list",
            SCENARIOS["robust-list"],
            without(Kernel, "e4a38402c36e"),
            Kernel,
            ("allocator", "oom_reaper"),
        ),
        Bug(
            "6b31d5955cb2",
            "A thread in write(2) faults a reaped page in again, and writes its zeroes to the"
            " file.",
            "zeroes",
            SCENARIOS["write"],
            without(Merged414, "6b31d5955cb2"),
            Merged414,
            ("allocator", "oom_reaper", "thread in write(2)"),
        ),
        Bug(
            "af5679fbc669",
            "Without oom_lock the reaper frees all, and sets the bit, between the allocator's last"
            " look at the free list and the killer's scan: one kill too many.",
            "kill-after-relief",
            SCENARIOS["aio-never"],
            V419,
            V417,
            ("allocator", "oom_reaper"),
            brought=True,
        ),
        Bug(
            "9bcdeb51bd7d",
            "A thread that is last of two on the reaper's list looks as if it were on none, and is"
            " put on it again; its reference is never dropped.",
            "queued-once",
            SCENARIOS["dies-allocating"],
            V419,
            V515First,
            ("allocator", "allocating thread", "second allocating thread"),
        ),
        Bug(
            "64c37e134b12",
            "fork(2) fails in the middle of dup_mmap; who walks all address spaces walks half a"
            " tree.",
            "partial-tree",
            SCENARIOS["fork-fails"],
            without(Kernel, "64c37e134b12"),
            Kernel,
            ("fork", "swapoff"),
        ),
        Bug(
            "59d4d36158ba",
            "Of a frozen victim only one thread is thawed; the others never learn that they were"
            " killed (September 2025).",
            "deadlock",
            SCENARIOS["frozen"],
            without(Kernel, "59d4d36158ba"),
            Kernel,
            ("victim", "thread"),
        ),
        Bug(
            "212925802454",
            "mmget_not_zero fails, and the reaper says done: a second victim dies before a page of"
            " the first is back (1 to 4 extra processes an OOM were reported).",
            "needless-kill-at-once",
            SCENARIOS["lone"],
            Pre414,
            Merged414,
            ("allocator", "oom_reaper"),
        ),
    )
}
"""By commit. Not here: ade81479c7dd (CVE-2024-57977), a scan of 56,000 tasks that took 23 s: no
order of events, but a length."""
