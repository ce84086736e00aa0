"""The guard's third process: all that is slow. The body of a worker; see records/.

Nothing but the way in lives here, so that the core, which forks it, carries none of its weight.
"""

import gc

from memreap.guard.settings import Records
from memreap.linux.worker import Line


def run(line: Line, records: Records, quiet: bool) -> None:
    """Write down what the core tells, until it tells no more."""
    gc.freeze()  # a collection would copy the core's pages only to look at them
    from memreap.records.scribe import Scribe  # noqa: PLC0415

    Scribe(line, records, quiet).serve()
