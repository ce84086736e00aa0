"""Who wants memory. mm/page_alloc.c."""

from typing import TYPE_CHECKING

from memreap.check.operation import BLOCK, BOOL, Block, Memory, Steps, Var, become, operation
from memreap.mm.mm_struct import MmStruct, Page, TaskStruct
from memreap.mm.mmap_lock import mutex_trylock, mutex_unlock

if TYPE_CHECKING:
    from memreap.mm.kernel import Kernel


@operation(BOOL)
def get_page_from_freelist(s: Memory, mm: MmStruct) -> bool:
    """Whether there is enough: all that the victim held (``ALLOC_WMARK_HIGH``)."""
    return mm.all_free(s)


def alloc_pages_slowpath(k: "Kernel", victim: TaskStruct) -> Steps:
    """Allocate: again and again, until there is enough or a second victim was killed."""
    if (yield get_page_from_freelist(victim.address_space)):
        return None
    if (yield mutex_trylock(k.oom_lock)):
        is_done = yield from k.alloc_pages_may_oom(victim)
        yield mutex_unlock(k.oom_lock)
        if is_done:
            return None
    return become(k.alloc_pages_slowpath, victim)


def alloc_pages_may_oom(k: "Kernel", victim: TaskStruct) -> Steps:
    """Look once more, with ``oom_lock`` held, before anyone is killed."""
    if (yield get_page_from_freelist(victim.address_space)):
        return True
    return (yield from k.out_of_memory(victim))


@operation()
def wait_for_a_page(s: Memory, mms: tuple[MmStruct, ...], killed_next: Var) -> Block | None:
    """Any page will do: one that comes back, or what a second victim leaves behind."""
    pages = [page for mm in mms for page in mm.pages]
    if s[killed_next] or any(s[page] == Page.FREE for page in pages):
        return None
    return BLOCK


def alloc_page_for_io(k: "Kernel") -> Steps:
    """A filesystem's own allocation, in the middle of its I/O."""
    yield wait_for_a_page(k.mms, k.killed_next)
