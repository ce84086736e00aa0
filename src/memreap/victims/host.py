"""The parent of a victim: forks it, answers its hung file, says when it is ready, reaps.

Only this one process lives here. It is single-threaded and never waits but in one ``poll``, and
it is the one holder of /dev/fuse: its end, however it comes, is what frees a hung victim. It ends
when it has no children left, when it is told to (SIGTERM, SIGINT), and with its own parent.
"""

import os
import select
import signal
import sys
import traceback
from typing import NoReturn

from memreap.linux import syscalls
from memreap.linux.procfs import Procfs
from memreap.victims.fuse import HungFile
from memreap.victims.kinds import KINDS
from memreap.victims.neighbours import spin
from memreap.victims.scene import Order, Scene

SIGNALS = {signal.SIGCHLD, signal.SIGTERM, signal.SIGINT}
SIGINFO_BYTES = 128
SETTLE_MS = 5  # between two looks at whether the victim has come to where it hangs
REPORT_MAX_BYTES = 4096


class Host:
    """One victim's parent."""

    def __init__(self, order: Order) -> None:
        """Fork the victim and get ready to serve it."""
        self._kind = KINDS[order.kind]
        self._hung_file = HungFile() if self._kind.hung_file else None
        # A parent that is gone by now reads no report, and writing that ends the host as well.
        syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
        syscalls.prctl(syscalls.PR_SET_CHILD_SUBREAPER, 1)
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        self._signals = syscalls.signalfd(SIGNALS)
        self._reports, report_fd = os.pipe()
        lifeline_fd, self._lifeline = os.pipe()
        scene = Scene(order, report_fd, lifeline_fd, self._hung_file)
        self._host = os.getpid()
        self._victim = os.fork()
        if self._victim == 0:
            self._become_victim(scene)
        os.close(report_fd)
        os.close(lifeline_fd)
        self._neighbour_count = order.neighbours
        self._neighbours: list[int] = []
        self._report: bytes | None = None
        self._ready = False

    def run(self) -> int:
        """Serve until no child is left; the exit code."""
        poller = select.poll()
        poller.register(self._signals, select.POLLIN)
        poller.register(self._reports, select.POLLIN)
        if self._hung_file:
            poller.register(self._hung_file.device, select.POLLIN)
        while self._has_children():
            settling = self._report is not None and not self._ready
            for fd, _ in poller.poll(SETTLE_MS if settling else None):
                if fd == self._signals:
                    self._take_signal()
                elif fd == self._reports:
                    poller.unregister(fd)
                    self._report = os.read(fd, REPORT_MAX_BYTES)
                elif self._hung_file and not self._hung_file.serve():
                    poller.unregister(fd)
            self._announce()
        return 0 if self._ready else 1

    def _become_victim(self, scene: Scene) -> NoReturn:
        """Run the kind, and never return into the host's code."""
        try:
            if scene.hung_file:
                scene.hung_file.release()  # first of all: it must not keep its own server alive
            syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != self._host:
                os._exit(1)  # the host died before the line above
            for fd in (self._signals, self._reports, self._lifeline):
                os.close(fd)
            # Stdout is the host's: at its end-of-file the caller knows that nothing will come.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
            scene.join_cgroups()
            self._kind.act(scene)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)

    def _has_children(self) -> bool:
        """Reap whoever has ended, orphans of the victim too; is anyone left?"""
        try:
            while pid := os.waitpid(-1, os.WNOHANG)[0]:
                if pid == self._victim:
                    self._victim = 0
        except ChildProcessError:
            return False
        return True

    def _take_signal(self) -> None:
        raw = os.read(self._signals, SIGINFO_BYTES)
        if int.from_bytes(raw[:4], sys.byteorder) == signal.SIGCHLD:
            return  # the loop reaps
        # Told to end: let go of everything, then stay until the last child is reaped.
        if self._hung_file:
            self._hung_file.release()
        if self._lifeline >= 0:
            os.close(self._lifeline)
            self._lifeline = -1
        # Not reaped yet, so they are still those.
        for pid in [*self._neighbours, *([self._victim] if self._victim else [])]:
            os.kill(pid, signal.SIGKILL)
        self._neighbours.clear()

    def _announce(self) -> None:
        """Pass the victim's report on, as soon as it is true."""
        if self._ready or not self._report or not self._victim:
            return
        if self._kind.ends_in_d and Procfs().stat(self._victim).state != "D":
            return
        self._ready = True
        self._neighbours = [spin() for _ in range(self._neighbour_count)]
        os.write(sys.stdout.fileno(), self._report)
