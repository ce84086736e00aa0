"""Whether a victim's memory came back, and how much: seen, not assumed.

What is measured, in bytes: the private anonymous pages (RssAnon) and swap (VmSwap) that the mm
held right before the kill, and how much of them is known to be free again. It is known

- when every process that shared the mm has exited: exit_mmap ran before the pidfd told;
- when process_mrelease returned 0, the kernel unmapped every VMA that it can reap. Pages that the
  victim's own exit unmapped first may still lie in its mmu_gather (huge pages all of them), so
  the release counts from then only if the cgroup's counter fell as well, or if the victim then
  hangs; else from its exit;
- what ``oom_score`` then says is left, beyond the pages that a reap cannot take, is subtracted.
  One step of it is 0.15 % of RAM and swap, so less than two steps cannot be seen;
- the usage counter of the victim's cgroup, where it is in one, is quoted beside it. Others in the
  group move it as well, so it supports the figure and does not make it.

What it misses: shared memory and tmpfs (free only with the last user), file pages (they stay in
the page cache, where they are free to take), hugetlb pages (back at exit only), page tables and
kernel memory (back at exit; not counted), pages that a pin or a fork()ed relative keeps (counted
though they stay). mm/oom_kill.c, fs/proc/base.c
"""

from dataclasses import dataclass

from memreap.linux.procfs import PAGE_SIZE_BYTES, Memory
from memreap.reap.facts import Facts

WITNESSED_SHARE = 0.95  # of what could be released, by which the cgroup's counter must have fallen
OOM_SCORE_QUANTA = 2  # roundings on the way: one when scaled to 1000, one when to two thirds


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the reaper saw right after its last process_mrelease."""

    mrelease: int
    attempts: int
    released_s: float
    oom_score: int | None
    usage_fell_bytes: int | None

    @property
    def reaped(self) -> bool:
        """Whether the kernel says that it took all it can take."""
        return self.mrelease == 0


def releasable_bytes(memory: Memory) -> int:
    """What a reap can give back."""
    return memory.rss_anon_bytes + memory.swap_bytes


def witnessed(memory: Memory, usage_fell_bytes: int | None) -> bool:
    """Whether the cgroup's counter fell as far as the victim's memory can make it fall."""
    return usage_fell_bytes is not None and usage_fell_bytes >= WITNESSED_SHARE * releasable_bytes(
        memory
    )


def left_bytes(facts: Facts, oom_score: int | None, total_bytes: int) -> int:
    """How much of what could be released is still there for sure, by the victim's oom_score.

    ``total_bytes``: RAM and swap. 0 where the score says nothing: the mm is gone from the task,
    or unmapped, or so small that one step hides it.
    """
    if not oom_score:
        return 0
    step_bytes = total_bytes * 3 // 2000
    # The kernel rounds a thousandth of all pages down before it multiplies.
    adj_bytes = facts.oom_score_adj * (total_bytes // PAGE_SIZE_BYTES // 1000) * PAGE_SIZE_BYTES
    usage_bytes = (oom_score * 3 // 2 - 1000) * total_bytes // 1000 - adj_bytes
    memory = facts.memory
    stays_bytes = memory.rss_file_bytes + memory.rss_shmem_bytes + memory.page_table_bytes
    sure_bytes = usage_bytes - stays_bytes - OOM_SCORE_QUANTA * step_bytes
    return min(max(0, sure_bytes), releasable_bytes(memory))


def reaped_bytes(facts: Facts, evidence: Evidence, total_bytes: int) -> int:
    """How much a reap that returned 0 gave back."""
    return releasable_bytes(facts.memory) - left_bytes(facts, evidence.oom_score, total_bytes)
