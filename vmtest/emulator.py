"""QEMU: the one that boots guests here, how it is called, and where it comes from.

Without KVM it must be a new one. 7.2 now and then stops a CPU of its guest for good, and it lets a
CPU run on in code that the guest's kernel has just patched: switching a tracepoint on is then
enough for an int3 that nobody expects, and a panic. 10.0 was not seen to do either, and is sooner.
Where the machine's own is older, Debian's is unpacked into the cache with all that it links to,
and nothing is installed.
"""

import os
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from vmtest import apt, cache
from vmtest.cache import NotReadyError

PROGRAM = "qemu-system-x86_64"
PACKAGE = "qemu-system-x86"
SUITE = "trixie"  # Debian's oldest with one that is new enough
SINCE = (10, 0)  # without KVM
KVM = Path("/dev/kvm")
CPUINFO = Path("/proc/cpuinfo")
LIBRARIES = "usr/lib/x86_64-linux-gnu"
# Boots sooner than SeaBIOS, but a guest that suspends does not come back.
QBOOT = "qboot.rom"
_VERSION = re.compile(r"version (\d+)\.(\d+)")


@dataclass(frozen=True)
class Emulator:
    """``argv``: how it starts; ``data``: where its firmware lies."""

    argv: tuple[str, ...]
    data: Path

    def acceleration(self, *, counted: bool = False) -> tuple[str, ...]:
        """KVM where there is one; else each CPU of the guest has a thread.

        ``counted``: an instruction takes a nanosecond by the guest's clock, its CPUs take turns.
        What is measured in there is then the same on a slow host, and on a busy one.
        """
        if counted:
            return ("-accel", "tcg,thread=single", "-icount", "shift=0", "-cpu", "qemu64,+rdrand")
        if has_kvm():
            return ("-accel", "kvm", "-cpu", "host")
        return ("-accel", "tcg,thread=multi", "-cpu", "qemu64,+rdrand")

    def firmware(self, *, qboot: bool) -> tuple[str, ...]:
        """The quick one where it is there, and wanted."""
        return ("-bios", str(self.data / QBOOT)) if qboot and (self.data / QBOOT).exists() else ()


def has_kvm() -> bool:
    """Whether the CPU says that it can, and there is not only a device node."""
    able = re.search(r"\b(vmx|svm)\b", CPUINFO.read_text())
    return able is not None and os.access(KVM, os.R_OK | os.W_OK)


def ready() -> Emulator:
    """The one to use. Raises NotReadyError, with what to do, where none is fit."""
    if os.uname().machine != "x86_64":
        raise NotReadyError(f"the guest is x86_64, this machine is {os.uname().machine}")
    own = shutil.which(PROGRAM)
    if own and (has_kvm() or _version(own) >= SINCE):
        return Emulator((own,), Path("/usr/share/qemu"))
    if place().is_dir():
        return _unpacked(place())
    least = "" if has_kvm() else f" of {SINCE[0]}.{SINCE[1]} or newer"
    raise NotReadyError(f"no {PROGRAM}{least}: {cache.SETUP}, as root")


def bring() -> Emulator:
    """The one to use; from Debian's packages where none is fit. Raises NotReadyError."""
    try:
        return ready()
    except NotReadyError:
        if os.uname().machine != "x86_64":
            raise
    place().parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".new-", dir=place().parent) as folder:
        fresh = Path(folder, "root")
        apt.Apt.of(SUITE, Path(folder)).unpack_whole(PACKAGE, fresh)
        fresh.chmod(0o755)
        fresh.rename(place())
    return ready()


def place() -> Path:
    """Where one that was brought lies, or would."""
    return cache.directory() / f"qemu-{SUITE}"


def _unpacked(root: Path) -> Emulator:
    """By its own loader: the machine's libraries may be older than it expects."""
    share = [root / "usr/share/qemu", root / "usr/share/seabios"]
    loader = (str(root / LIBRARIES / "ld-linux-x86-64.so.2"), "--library-path")
    firmware = (part for folder in share for part in ("-L", str(folder)))
    program = str(root / "usr/bin" / PROGRAM)
    return Emulator((*loader, str(root / LIBRARIES), program, *firmware), share[0])


def _version(program: str) -> tuple[int, ...]:
    said = subprocess.run([program, "--version"], capture_output=True, text=True, check=False)
    found = _VERSION.search(said.stdout)
    return tuple(map(int, found.groups())) if found else (0, 0)
