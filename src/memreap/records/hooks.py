"""Commands that are run at a turn: argv without a shell, the turn as JSON on stdin, a time limit.

A hook may hang, print for ever or not exist: it is killed with its process group when its time
is over, and nobody waits for it. Its start is a vfork: it costs no memory when there is none.
"""

import contextlib
import json
import os
import select
import signal
import time
from collections import deque
from collections.abc import Iterable

from memreap.guard.settings import Hook
from memreap.records.outlet import Outlet
from memreap.records.trouble import Trouble
from memreap.records.turn import Course, Turn, pid_of
from memreap.records.words import clipped
from memreap.run.voice import say

RUNNING_MAX, WAITING_MAX = 8, 64
OUTPUT_BYTES_MAX = 4096
READ_BYTES = 65536
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
RESET = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGPIPE)


def environment(turn: Turn) -> dict[str, str]:
    """What a hook finds: PATH, and the turn's main points for those who read no JSON."""
    victim = turn.get("victim") or {}
    found = {
        "PATH": PATH,
        "MEMREAP_WHAT": turn.get("what"),
        "MEMREAP_DOMAIN": turn.get("domain"),
        "MEMREAP_INCIDENT": turn.get("incident"),
        "MEMREAP_DRY_RUN": "1" if turn.get("dry_run") else None,
        "MEMREAP_USAGE_BYTES": turn.get("usage_bytes"),
        "MEMREAP_LIMIT_BYTES": turn.get("limit_bytes"),
        "MEMREAP_VICTIM_PID": pid_of(victim) if victim else None,
        "MEMREAP_VICTIM_NAME": victim.get("name"),
    }
    return {name: _as_argument(value) for name, value in found.items() if value is not None}


def _as_argument(value: object) -> str:
    """Text that can stand in an environment: a NUL ends it, a lone surrogate is no byte."""
    text = str(value).replace("\0", "")[:READ_BYTES]
    return os.fsdecode(text.encode("utf-8", "surrogateescape" if _escaped(text) else "replace"))


def _escaped(text: str) -> bool:
    return all(not 0xD800 <= ord(c) <= 0xDFFF or 0xDC80 <= ord(c) <= 0xDCFF for c in text)


class Running:
    """One hook's process, what it is still to read, and what it has said."""

    def __init__(self, hook: Hook, turn: Turn) -> None:
        """Start it. Raises OSError."""
        self.hook, self.output = hook, bytearray()
        self._rest = json.dumps(turn).encode() + b"\n"
        theirs_in, self.stdin = os.pipe2(os.O_CLOEXEC)
        self.stdout, theirs_out = os.pipe2(os.O_CLOEXEC)
        try:
            self.pid = os.posix_spawnp(
                hook.argv[0],
                hook.argv,
                environment(turn),
                file_actions=[
                    (os.POSIX_SPAWN_DUP2, theirs_in, 0),
                    (os.POSIX_SPAWN_DUP2, theirs_out, 1),
                    (os.POSIX_SPAWN_DUP2, theirs_out, 2),
                ],
                setsid=True,
                setsigmask=(),
                setsigdef=RESET,
            )
        except BaseException:
            os.close(self.stdin)
            os.close(self.stdout)
            raise
        finally:
            os.close(theirs_in)
            os.close(theirs_out)
        with contextlib.suppress(OSError), open(f"/proc/{self.pid}/oom_score_adj", "w") as file:
            file.write("0")  # the guard's own protection is not for whatever a hook starts
        self.pidfd = os.pidfd_open(self.pid)  # a child not waited for: still that one
        self.deadline_s, self.late = time.monotonic() + hook.timeout_s, False
        for fd in (self.stdin, self.stdout):
            os.set_blocking(fd, False)

    def fds(self) -> dict[int, int]:
        """What to poll: its end, its output, and its stdin while there is something to write."""
        found = {self.pidfd: select.POLLIN}
        if self.stdout >= 0:
            found[self.stdout] = select.POLLIN
        if self.stdin >= 0:
            found[self.stdin] = select.POLLOUT
        return found

    def attend(self, ready: dict[int, int]) -> None:
        """Write and read what goes through now; output beyond the bound is read and forgotten."""
        if self.stdin in ready:
            try:
                self._rest = self._rest[os.write(self.stdin, self._rest) :]
            except BlockingIOError:
                pass
            except OSError:  # it does not read: its own affair
                self._rest = b""
            if not self._rest:
                self.stdin = _closed(self.stdin)
        if self.stdout in ready:
            self._read()

    def _read(self) -> None:
        with contextlib.suppress(BlockingIOError):
            said = os.read(self.stdout, READ_BYTES)
            self.output += said[: OUTPUT_BYTES_MAX - len(self.output)]
            if not said:
                self.stdout = _closed(self.stdout)

    def kill(self) -> None:
        """End it with its whole process group, which it leads."""
        with contextlib.suppress(OSError):
            os.killpg(self.pid, signal.SIGKILL)

    def end(self) -> int:
        """Take leave of it: its exit code, negative for a signal. Its group goes with it."""
        if self.stdout >= 0:
            self._read()
        self.kill()  # before it is waited for: the group's number is still its own
        _, status = os.waitpid(self.pid, 0)
        self.close()
        return os.waitstatus_to_exitcode(status)

    def close(self) -> None:
        """Let go of its descriptors."""
        for fd in (self.stdin, self.stdout, self.pidfd):
            if fd >= 0:
                os.close(fd)
        self.stdin = self.stdout = self.pidfd = -1


def _closed(fd: int) -> int:
    os.close(fd)
    return -1


class Hooks(Outlet):
    """Starts hooks, a bounded number at once, and sees to their end."""

    name = "hooks"

    def __init__(self, hooks: Iterable[Hook], trouble: Trouble, quiet: bool) -> None:
        """``quiet``: what they print is not told, only how they fail."""
        self._hooks, self._trouble, self._quiet = tuple(hooks), trouble, quiet
        self._running: list[Running] = []
        self._waiting: deque[tuple[Hook, Turn]] = deque()
        for fd in map(int, os.listdir("/proc/self/fd")):
            with contextlib.suppress(OSError):
                if fd > 2:  # what the guard itself was started with is not for hooks
                    os.set_inheritable(fd, False)

    def take(self, turn: Turn, course: Course | None) -> None:
        """Start those that are for this turn, or queue them."""
        del course
        for hook in self._hooks:
            if hook.on != turn.get("what"):
                continue
            if len(self._waiting) >= WAITING_MAX:
                self._trouble.note("hooks", f"more than {WAITING_MAX} wait: the rest is not run")
                return
            self._waiting.append((hook, turn))
        self._start()

    def fds(self) -> dict[int, int]:
        """Everything of every running hook."""
        return {fd: event for running in self._running for fd, event in running.fds().items()}

    def due_s(self) -> float | None:
        """The first time limit."""
        return min((running.deadline_s for running in self._running), default=None)

    def attend(self, ready: dict[int, int], now_s: float) -> None:
        """Read, write, and end those that have ended or must."""
        for running in list(self._running):
            running.attend(ready)
            if running.pidfd in ready:
                self._running.remove(running)
                self._tell(running, running.end())
            elif now_s >= running.deadline_s:
                running.kill()
                running.deadline_s = now_s + 1.0  # it may hang in the kernel: ask again
                running.late = True
                limit_s = running.hook.timeout_s
                self._trouble.note(_title(running.hook), f"killed: still there after {limit_s:g} s")
        self._start()

    def close(self) -> None:
        """End them all; who does not end is left."""
        for running in self._running:
            running.kill()
            running.close()
        self._running.clear()
        self._waiting.clear()

    def _start(self) -> None:
        while self._waiting and len(self._running) < RUNNING_MAX:
            hook, turn = self._waiting.popleft()
            try:
                self._running.append(Running(hook, turn))
            except (OSError, ValueError) as error:
                why = getattr(error, "strerror", None) or error
                self._trouble.note(_title(hook), f"cannot be run: {why}")

    def _tell(self, running: Running, code: int) -> None:
        title = _title(running.hook)
        if code < 0 and not running.late:
            self._trouble.note(title, f"ended by {signal.strsignal(-code) or -code}")
        elif code > 0:
            self._trouble.note(title, f"exit code {code}")
        elif code == 0:
            self._trouble.over(title)
        if running.output and not self._quiet:
            for row in os.fsdecode(bytes(running.output)).splitlines()[:20]:
                say(f"{title}: {clipped(row)}")


def _title(hook: Hook) -> str:
    return f"hook {clipped(os.path.basename(hook.argv[0]), 40)} on {hook.on}"  # noqa: PTH119
