"""I/O in flight when a process is killed: which of the model's tasks completes it, if any does.

How long a completion takes was drawn, and is the process's own; see ``World``.
"""

from memreap.check.operation import Steps
from memreap.mm import aio
from memreap.mm.kernel import Kernel
from memreap.mm.mm_struct import MmStruct
from memreap.simulate.setup import Io


def completes(kernel: Kernel, mm: MmStruct, io: Io) -> Steps | None:
    """The task that completes it; None where nothing will, or nothing need."""
    if io is Io.RAW:
        return aio.device(mm)
    if io is Io.FILESYSTEM:
        return aio.filesystem(kernel, mm)
    return None
