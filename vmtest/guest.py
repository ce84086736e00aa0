"""Boot a guest, run one script in it, and tell what came of it. Whatever happens, QEMU ends."""

import contextlib
import json
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from memreap import size
from vmtest import cache, emulator, image, roots

# Without what a test of memory never asks for; whatever the kernel objects to ends the guest.
KERNEL = (
    "console=ttyS0 quiet panic=-1 oops=panic mitigations=off nokaslr cryptomgr.notests"
    " random.trust_cpu=on no_timer_check tsc=reliable reboot=t"
)
TAIL_LINES = 5
Record = dict[str, Any]
Told = Callable[[Record], object]


class GuestError(Exception):
    """The guest did not end as it should; ``console`` is what the kernel said, kept in a file."""

    def __init__(self, what: str, console: Path, result: "Result") -> None:
        """``result``: all that came until then."""
        tail = [line for line in result.console.splitlines() if line.strip()][-TAIL_LINES:]
        super().__init__(f"{what}; console: {console}" + "".join(f"\n  {line}" for line in tail))
        self.console, self.result = console, result


class HungError(GuestError):
    """It was still running when its time was over."""


class DiedError(GuestError):
    """It ended before its script did: a panic, or QEMU's own trouble."""


@dataclass
class Result:
    """What a guest left behind."""

    exit_code: int | None = None
    stdout: list[str] = field(default_factory=list)
    stderr: list[str] = field(default_factory=list)
    records: list[Record] = field(default_factory=list)
    console: str = ""
    ready_s: float = 0.0  # from QEMU's start to the script's first line
    guest_s: float = 0.0  # the same by the guest's clock
    whole_s: float = 0.0

    def record(self, **having: object) -> Record:
        """The first record with these. Raises LookupError."""
        for record in self.records:
            if having.items() <= record.items():
                return record
        raise LookupError(f"no record with {having} among {len(self.records)}")

    def check(self) -> "Result":
        """Itself, where the script ended well. Raises RuntimeError with all that it said."""
        if self.exit_code != 0:
            said = "\n".join(
                [f"the script ended with {self.exit_code}", *self.stdout, *self.stderr]
            )
            raise RuntimeError(said)
        return self

    def take(self, line: str) -> Record | None:
        """One frame from the guest's init; the record in it."""
        frame = json.loads(line)
        if "out" in frame:
            self.stdout.append(frame["out"])
        elif "err" in frame:
            self.stderr.append(frame["err"])
        elif "record" in frame:
            self.records.append(frame["record"])
            return self.records[-1]
        elif "ready" in frame:
            self.guest_s = frame["ready"]
        elif "exit" in frame:
            self.exit_code = frame["exit"]
        return None


@dataclass(frozen=True)
class Software:
    """What a guest boots: a kernel, what it unpacks first, disks as QEMU describes them."""

    kernel: Path
    initrd: Path
    drives: tuple[str, ...] = ()
    append: str = ""


@dataclass(frozen=True)
class Guest:
    """A machine to be. ``swap``: a size, on a disk, or ``zram:`` and a size."""

    memory_bytes: int = 1 << 30
    cpus: int = 2
    nodes: int = 1
    swap: str | None = None
    append: str = "psi=1"
    timeout_s: float = 90.0
    modules: tuple[str, ...] = ("fuse",)
    files: Mapping[str, bytes] = field(default_factory=dict)
    kernel: str = ""  # of a Debian suite that is built here; else the one that set-up brought
    qboot: bool = True  # sooner than SeaBIOS, but a guest that suspends does not come back
    counted: bool = False  # a nanosecond an instruction: how fast the host is does not matter

    def run(self, script: str | Path, told: Told | None = None) -> Result:
        """Boot, run a script to its end, and shut down. ``told`` hears each record as it comes.

        Raises NotReadyError, HungError, DiedError; what the script's own code was is in the result.
        """
        source = script.read_text() if isinstance(script, Path) else script
        folder = Path(tempfile.mkdtemp(prefix="memreap-vmtest-"))
        try:
            disk_bytes, swap = self._swap()
            software = self._software(folder, source, {"swap": swap, "modules": self.modules})
            if disk_bytes:
                with open(folder / "swap", "wb") as disk:
                    disk.truncate(disk_bytes)
            result = self._boot(self._argv(software, folder), folder, told)
        except GuestError:
            for path in folder.iterdir():
                if path.name != "console":
                    path.unlink()
            raise
        except BaseException:
            shutil.rmtree(folder)
            raise
        shutil.rmtree(folder)
        return result

    def _software(self, folder: Path, source: str, options: dict[str, object]) -> Software:
        """What this machine boots, made in ``folder``. Raises NotReadyError."""
        kernel = roots.ready(self.kernel).unpacked if self.kernel else cache.newest()
        initrd = folder / "initrd"
        initrd.write_bytes(image.base(kernel) + image.ours(source, options, self.files))
        return Software(kernel.image, initrd, append="rootfstype=ramfs")

    def _swap(self) -> tuple[int, str | None]:
        """(size of the disk, what the guest is told)."""
        kind, colon, text = (self.swap or "").rpartition(":")
        if kind not in ("", "zram") or (colon and not kind):
            raise ValueError(f"not a swap: {self.swap!r} (say 512M or zram:512M)")
        if not text:
            return 0, None
        size_bytes = size.parse(text)
        return (0, f"zram:{size_bytes}") if kind == "zram" else (size_bytes, "disk")

    def _argv(self, software: Software, folder: Path) -> list[str]:
        qemu = emulator.ready()
        return [
            *_dying_with_us(),
            *(*qemu.argv, "-no-user-config", "-nodefaults", "-display", "none", "-no-reboot"),
            *(*qemu.acceleration(counted=self.counted), *qemu.firmware(qboot=self.qboot)),
            *("-m", f"{self.memory_bytes >> 20}", "-smp", str(self.cpus)),
            *self._nodes(),
            *("-serial", f"file:{folder}/console", "-serial", f"file:{folder}/frames"),
            *(part for drive in software.drives for part in ("-drive", f"if=virtio,{drive}")),
            *self._disk(folder),
            *("-kernel", str(software.kernel), "-initrd", str(software.initrd)),
            *("-append", f"{KERNEL} {software.append} {self.append}"),
        ]

    def _nodes(self) -> Iterator[str]:
        if self.nodes == 1:
            return
        each_mib = (self.memory_bytes >> 20) // self.nodes
        cpus = max(1, self.cpus // self.nodes)
        for node in range(self.nodes):
            yield from ("-object", f"memory-backend-ram,size={each_mib}M,id=ram{node}")
            first, last = node * cpus, (node + 1) * cpus - 1
            if node == self.nodes - 1:
                last = self.cpus - 1
            place = f",cpus={first}-{last}" if first < self.cpus else ""
            yield from ("-numa", f"node,nodeid={node},memdev=ram{node}{place}")

    def _disk(self, folder: Path) -> Iterator[str]:
        if (folder / "swap").exists():
            yield from ("-drive", f"file={folder}/swap,if=virtio,format=raw,cache=unsafe")

    def _boot(self, argv: list[str], folder: Path, told: Told | None) -> Result:
        result, frames, console = Result(), folder / "frames", folder / "console"
        start_s = time.monotonic()
        with subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        ) as qemu:
            try:
                for line in _lines(frames, qemu, start_s + self.timeout_s):
                    record = result.take(line)
                    if record is not None and told is not None:
                        told(record)
                    if result.guest_s and not result.ready_s:
                        result.ready_s = time.monotonic() - start_s
                    if result.exit_code is not None:
                        break
                hung = result.exit_code is None and qemu.poll() is None
            finally:
                qemu.kill()
                said = qemu.communicate()[1].decode(errors="replace").strip()
        result.whole_s = time.monotonic() - start_s
        with contextlib.suppress(FileNotFoundError):
            result.console = console.read_text(errors="replace")
        if hung:
            raise HungError(f"guest still ran after {self.timeout_s:g} s", console, result)
        if result.exit_code is None:
            panic = re.search(r"Kernel panic.*", result.console)
            why = panic[0] if panic else said or "no word why"
            raise DiedError(f"guest died before its script ended: {why}", console, result)
        return result


def run(script: str | Path, told: Told | None = None, **options: Any) -> Result:
    """Boot a ``Guest`` of these options and run a script, Python source, in it."""
    return Guest(**options).run(script, told)


def _dying_with_us() -> list[str]:
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", "KILL"] if setpriv else []


def _lines(path: Path, qemu: subprocess.Popen[bytes], deadline_s: float) -> Iterator[str]:
    """Whole lines, as a file gets them, until the end of QEMU or of the time."""
    rest, at = b"", 0
    while True:
        ended = qemu.poll() is not None
        with contextlib.suppress(FileNotFoundError), open(path, "rb") as file:
            file.seek(at)
            chunk = file.read()
            at += len(chunk)
            *lines, rest = (rest + chunk).split(b"\n")
            yield from (line.decode() for line in lines if line)
        if ended or time.monotonic() > deadline_s:
            return
        time.sleep(0.01)
