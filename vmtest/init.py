"""The guest's process 1: mounts, loads, sets up swap, runs the script, tells the host, ends.

Frames to the host are JSON lines on the second serial port: {"out": text}, {"err": text},
{"ready": seconds since boot}, {"exit": code}; {"record": object} comes from the script itself,
so that it has arrived before the script goes on. One write is one frame: the terminal keeps them
apart.
"""

import ctypes
import json
import os
import runpy
import select
import sys
import termios
import time
import traceback
import tty
from pathlib import Path

HOME = "/memreap"
FRAMES = "/dev/ttyS1"
CGROUP = "/sys/fs/cgroup"
CONTROLLERS = ("memory", "cpu", "cpuset", "pids", "io")
# (type, where, options), in this order.
MOUNTS = (
    ("proc", "/proc", ""),
    ("sysfs", "/sys", ""),
    ("devtmpfs", "/dev", ""),
    ("tmpfs", "/dev/shm", ""),
    ("tmpfs", "/run", ""),
    ("tmpfs", "/tmp", ""),
    ("cgroup2", CGROUP, ""),
    ("debugfs", "/sys/kernel/debug", ""),
    ("tracefs", "/sys/kernel/tracing", ""),
)
RB_AUTOBOOT = 0x01234567
MCL_CURRENT = 1
POLL_MS = 20
ALL_KERNEL_MESSAGES = "8"
libc = ctypes.CDLL(None, use_errno=True)


def mount_all() -> None:
    for kind, where, options in MOUNTS:
        Path(where).mkdir(parents=True, exist_ok=True)
        if libc.mount(kind.encode(), where.encode(), kind.encode(), 0, options.encode()) != 0:
            print(f"init: no {kind} at {where}: {os.strerror(ctypes.get_errno())}")
    with open(f"{CGROUP}/cgroup.controllers") as file:
        there = file.read().split()
    for controller in CONTROLLERS:
        if controller in there:
            with open(f"{CGROUP}/cgroup.subtree_control", "w") as file:
                file.write(f"+{controller}")


class Frames:
    """The way to the host."""

    def __init__(self) -> None:
        self.fd = os.open(FRAMES, os.O_RDWR | os.O_NOCTTY)
        tty.setraw(self.fd)

    def send(self, kind: str, value: object) -> None:
        os.write(self.fd, json.dumps({kind: value}).encode() + b"\n")

    def end(self, code: int) -> None:
        self.send("exit", code)
        termios.tcdrain(self.fd)


class Pump:
    """Carries what the script writes to the host, line by line, until the script has ended."""

    def __init__(self, frames: Frames) -> None:
        self.frames = frames
        self.kinds: dict[int, str] = {}
        self.rest: dict[int, bytes] = {}
        self.poll = select.poll()

    def pipe(self, kind: str) -> int:
        """Its writing end."""
        read, write = os.pipe()
        os.set_blocking(read, False)
        self.kinds[read], self.rest[read] = kind, b""
        self.poll.register(read, select.POLLIN)
        return write

    def move(self, timeout_ms: int) -> bool:
        """Whether anything came."""
        moved = False
        for fd, _ in self.poll.poll(timeout_ms):
            chunk = os.read(fd, 65536)
            if not chunk:
                self.poll.unregister(fd)
                continue
            moved = True
            *lines, self.rest[fd] = (self.rest[fd] + chunk).split(b"\n")
            for line in lines:
                self.line(fd, line)
        return moved

    def line(self, fd: int, line: bytes) -> None:
        self.frames.send(self.kinds[fd], line.decode(errors="surrogateescape"))

    def finish(self) -> None:
        while self.move(0):
            pass
        for fd, rest in self.rest.items():
            if rest:
                self.line(fd, rest)


def start(ends: list[int]) -> int:
    """Fork, and run the script with these as its stdout, stderr and way to the host; its pid."""
    if pid := os.fork():
        return pid
    os.setsid()
    for number, fd in enumerate(ends, 1):
        os.dup2(fd, number)
    os.closerange(4, 64)
    sys.argv = [f"{HOME}/script.py"]
    code = 1
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
        code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        if isinstance(ended.code, str):
            print(ended.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def code_of(script: int, pump: Pump) -> int:
    """Wait for the script, and take leave of every orphan until then."""
    while True:
        pump.move(POLL_MS)
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if pid == 0:
                break
            if pid == script:
                pump.finish()
                return os.waitstatus_to_exitcode(status)


def main() -> None:
    sys.path.insert(0, HOME)
    os.environ.update(PYTHONPATH=HOME, PATH="/usr/bin:/bin", LANG="C.UTF-8", FRAMES_FD="3")
    mount_all()
    with open("/proc/sys/kernel/printk", "w") as file:
        file.write(ALL_KERNEL_MESSAGES)
    frames = Frames()
    code = 1
    try:
        from vmtest import inside  # noqa: PLC0415 - now that it can be found

        with open(f"{HOME}/options.json") as file:
            options = json.load(file)
        for name in options["modules"]:
            inside.load(name)
        inside.swap_on(options["swap"])
        libc.mlockall(MCL_CURRENT)
        pump = Pump(frames)
        ends = [pump.pipe(kind) for kind in ("out", "err")]
        script = start([*ends, frames.fd])
        for fd in ends:
            os.close(fd)
        frames.send("ready", time.clock_gettime(time.CLOCK_BOOTTIME))
        code = code_of(script, pump)
    except Exception as error:
        frames.send("err", f"init: {error}")
        traceback.print_exc()
    frames.end(code)
    libc.reboot(RB_AUTOBOOT)


if __name__ == "__main__":
    main()
