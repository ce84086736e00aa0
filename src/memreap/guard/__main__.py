"""``python -m memreap.guard``: becomes the core. Started by ``memreap guard``, not by people.

Settings come as JSON through an inherited descriptor, so that the process that must act when
memory is gone carries neither an argument parser nor a configuration reader.
"""

import gc
import json
import os
import resource
import sys
import time
from functools import partial
from signal import SIG_BLOCK, Signals, pthread_sigmask
from typing import Any

from memreap import __version__
from memreap.guard import rehearsal, scribe
from memreap.guard.core import Core
from memreap.guard.crew import Scouts, Scribes
from memreap.guard.gauges import Gone
from memreap.guard.hands import Hands
from memreap.guard.settings import Kind, Settings
from memreap.linux import capabilities, memlock, scheduling, syscalls
from memreap.linux.procfs import Procfs
from memreap.linux.worker import Line, go_by
from memreap.reap.standby import Standbys
from memreap.size import seconds

EXIT_TROUBLE = 1
EXIT_NOTHING = 3
STANDBYS = 2
NEEDED = {
    "CAP_KILL": "other users' processes cannot be killed",
    "CAP_SYS_PTRACE": "who shares another user's memory is not seen, and nothing of his is held",
}
DESCRIPTORS = 1 << 16
HEARD = {Signals.SIGHUP, Signals.SIGTERM, Signals.SIGINT}


def main(argv: list[str]) -> int:
    """``argv``: the settings' descriptor, then the command that reads them anew."""
    with os.fdopen(int(argv[0]), "rb") as file:
        settings = Settings.from_message(json.load(file))
    began_s = time.monotonic()
    go_by("memreap")
    _take_descriptors()
    pthread_sigmask(SIG_BLOCK, HEARD)
    signals = syscalls.signalfd(HEARD)
    memlock.keep_heap()
    lacking = _stay_alive()
    gc.collect()
    gc.freeze()
    standbys = Standbys(STANDBYS)
    scribes = Scribes(partial(_scribe, settings=settings))
    try:
        scribes.start(began_s)
        standbys.refill()
        scouts = Scouts(settings.policy, os.getpid())
    except OSError as error:
        print(f"memreap: cannot start a guard: {error}", file=sys.stderr)
        return EXIT_TROUBLE
    hands = Hands(standbys, _line_up(os.getpid()))
    core = Core(
        settings,
        (scouts, scribes),
        hands,
        signals,
        reload_argv=argv[1:],
        version=__version__,
    )
    try:
        core.begin()
    except Gone as gone:
        print(f"memreap: {gone}", file=sys.stderr)
        scouts.close()
        hands.close()
        scribes.close(0.0)
        return EXIT_NOTHING
    rehearsal.rehearse()
    lacking += _hold_on()
    lacking += _lacks(settings)
    for line in lacking:
        core.lack(line)
    core.say(f"on guard after {seconds(time.monotonic() - began_s)}: {core.what}")
    try:
        core.run()
    except Exception as error:
        print(f"memreap: the guard broke: {_where(error)}", file=sys.stderr)
        return EXIT_TROUBLE
    return 0


def _where(error: Exception) -> str:
    """What went wrong, and in which line of ours."""
    at = error.__traceback__
    while at is not None and at.tb_next is not None:
        at = at.tb_next
    place = f"{at.tb_frame.f_code.co_filename}:{at.tb_lineno}" if at else "nowhere"
    return f"{type(error).__name__}: {error} ({place})"


def _scribe(line: Line, settings: Settings) -> None:
    scribe.run(line, settings.records, quiet=settings.quiet)


def _take_descriptors() -> None:
    """As many as we may have: each domain keeps some ten, each look some fifty."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, DESCRIPTORS)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))


def _stay_alive() -> list[str]:
    """Ask the kernel not to choose us; what it does not allow."""
    try:
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write("-1000")
    except OSError:
        return ["oom_score_adj -1000 is not permitted: the kernel itself may choose the guard"]
    return []


def _hold_on() -> list[str]:
    """Keep all memory, and a CPU whenever it is needed; what is not permitted."""
    gc.collect()
    gc.freeze()
    gc.disable()  # what cycles there are is collected when nothing happens
    lacking = []
    if not memlock.lock_all():
        lacking.append(
            "memory cannot be locked (CAP_IPC_LOCK): the guard may have to wait for disk"
        )
    if scheduling.hurry(0, scheduling.WATCHER_PRIORITY) != "fifo":
        lacking.append("SCHED_FIFO is not permitted (CAP_SYS_NICE): the guard may wait for a CPU")
    return lacking


def _lacks(settings: Settings) -> list[str]:
    """What privileges are missing for processes that are not this user's."""
    if all(scope.kind is Kind.OWN for scope in settings.scopes):
        return []
    held = capabilities.effective()
    return [
        f"{name} is missing: {without}"
        for name, without in NEEDED.items()
        if name.lower() not in held
    ]


def _line_up(pid: int) -> frozenset[int]:
    """A process and its ancestors. Of our own line nothing hangs, or we could not run."""
    line: set[int] = set()
    procfs: Any = Procfs()
    while pid > 0:
        line.add(pid)
        try:
            pid = procfs.stat(pid).ppid
        except OSError:
            break
    return frozenset(line)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
