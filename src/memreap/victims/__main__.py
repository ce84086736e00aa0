"""``python -m memreap.victims [KIND]``: be the host of one victim, or say which kinds can be.

Prints one line of JSON, {"pid", "sharers", "size_bytes", "parent"}, once the victim is ready to be
killed, and stays until it was. Without KIND: {kind: why not, or null}.
"""

import argparse
import ctypes
import json
import sys

from memreap.linux import syscalls
from memreap.victims.fuse import HungFile
from memreap.victims.host import Host
from memreap.victims.kinds import KINDS
from memreap.victims.scene import Order

DEFAULT_SIZE_BYTES = 512 << 20


def main() -> int:
    """Arguments in, exit code out."""
    parser = argparse.ArgumentParser(prog="python -m memreap.victims", description=__doc__)
    parser.add_argument("kind", nargs="?", choices=sorted(KINDS), metavar="KIND")
    parser.add_argument("--size", type=int, default=DEFAULT_SIZE_BYTES, metavar="BYTES")
    parser.add_argument("--huge", action="store_true", help="in transparent huge pages")
    parser.add_argument("--threads", type=int, default=4, metavar="N", help="beside the main one")
    parser.add_argument("--cgroup", action="append", default=[], metavar="FOLDER", help="join it")
    parser.add_argument("--neighbours", type=int, default=0, metavar="N", help="busy, beside it")
    args = parser.parse_args()
    if args.kind is None:
        print(json.dumps(kinds_here()))
        return 0
    order = Order(
        args.kind, args.size, args.huge, args.threads, tuple(args.cgroup), args.neighbours
    )
    try:
        return Host(order).run()
    except OSError as error:
        print(error, file=sys.stderr)
        return 1


def kinds_here() -> dict[str, str | None]:
    """Each kind, and why it cannot be made here; found out by trying, so in a process to spare."""
    hung, aio = why_no_hung_file(), why_no_aio()
    reasons = {name: hung if kind.hung_file else None for name, kind in KINDS.items()}
    return reasons | {"hung-aio": hung or aio}


def why_no_hung_file() -> str | None:
    """Mount one, and let it go."""
    try:
        HungFile().release()
    except OSError as error:
        return f"{error.filename or 'the hung file'}: {error.strerror}"
    return None


def why_no_aio() -> str | None:
    """Set up a context; it goes with this process."""
    context = ctypes.c_ulong(0)
    try:
        syscalls.syscall(syscalls.NR_IO_SETUP, ctypes.c_uint(1), ctypes.byref(context))
    except OSError as error:
        return f"io_setup(2): {error.strerror}"
    return None


if __name__ == "__main__":
    sys.exit(main())
