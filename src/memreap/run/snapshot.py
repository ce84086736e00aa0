"""Everyone in the tree as a candidate, with whom policy protects.

Only the reading that precedes a choice lives here.
"""

import re

from memreap.decide.events import Candidate, Identity
from memreap.linux.command_lines import command_lines
from memreap.linux.procfs import PAGE_SIZE_BYTES, Memory, Procfs
from memreap.run.tree import GONE, Tree


def candidates(tree: Tree) -> tuple[Candidate, ...]:
    """Every living member, oldest first, as the kernel's task list has them."""
    found = []
    for member in tree:
        if member.dying_bytes is not None:
            continue
        try:
            found.append(_candidate(member.identity, tree.procfs))
        except GONE:
            tree.remove(member.pid)
    return tuple(sorted(found, key=lambda c: (c.identity.start_ticks, c.identity.pid)))


def _candidate(identity: Identity, procfs: Procfs) -> Candidate:
    stat, memory = procfs.stat(identity.pid), procfs.memory(identity.pid)
    if stat.start_ticks != identity.start_ticks:
        raise ProcessLookupError(f"pid {identity.pid} is another process now")
    return Candidate(
        members=(identity,),
        name=stat.comm,
        rss_pages=memory.rss_bytes // PAGE_SIZE_BYTES,
        swap_pages=memory.swap_bytes // PAGE_SIZE_BYTES,
        page_table_pages=memory.page_table_bytes // PAGE_SIZE_BYTES,
        oom_score_adj=procfs.oom_score_adj(identity.pid),
        has_mm=memory != Memory(uid=memory.uid),
        is_kernel_thread=stat.is_kernel_thread,
    )


def protected(
    found: tuple[Candidate, ...], pattern: re.Pattern[str] | None, procfs: Procfs
) -> frozenset[Identity]:
    """Whom the pattern matches, by comm or by command line.

    A command line that cannot be read in time may be one that matches: protected, too.
    """
    if pattern is None:
        return frozenset()
    by_comm = [c.identity for c in found if pattern.search(c.name)]
    rest = [c.identity for c in found if c.identity not in by_comm]
    lines = command_lines([identity.pid for identity in rest], procfs)
    unknown = [i for i in rest if i.pid not in lines]
    return frozenset(
        [*by_comm, *unknown, *(i for i in rest if pattern.search(lines.get(i.pid, "")))]
    )
