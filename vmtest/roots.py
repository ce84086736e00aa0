"""Debian root file systems for guests: built by debootstrap from Debian's packages alone.

Each is a disk image, a kernel and what unpacks the guest's files before systemd starts. They lie
in the cache, one folder a suite and recipe, and are never written to again.
"""

import hashlib
import json
import re
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from vmtest import apt, cache, cpio, emulator, modules
from vmtest.cache import NotReadyError

FORMAT = 1  # to be raised where the same lists are built into something else
HEAD_ROOM_BYTES = 1 << 30  # of the image beyond what lies in it; it is sparse
# What a first disk needs before there is a root to load modules from.
EARLY_MODULES = ("virtio_pci", "virtio_blk", "ext4")
EARLY_PROGRAMS = ("sh", "mount", "mkdir", "insmod", "tar", "switch_root", "umount", "poweroff")
EVERYWHERE = (
    "systemd", "systemd-sysv", "dbus", "dbus-user-session", "libpam-systemd", "udev", "kmod",
    "procps", "python3", "python3-venv", "ca-certificates", "passwd", "login",
)  # fmt: skip
# Neither time nor memory for what a machine with two disks and a terminal has no use for.
MASKED = (
    "apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer", "fstrim.timer",
    "e2scrub_all.timer", "e2scrub_reap.service", "getty@tty1.service", "serial-getty@ttyS0.service",
    "systemd-timesyncd.service", "systemd-networkd.service", "systemd-networkd.socket",
    "console-getty.service", "systemd-pcrphase.service", "systemd-boot-random-seed.service",
    "motd-news.timer", "ldconfig.service", "systemd-journal-catalog-update.service",
    "systemd-update-done.service", "systemd-hwdb-update.service", "systemd-binfmt.service",
    "systemd-udev-trigger.service", "systemd-udev-load-credentials.service",
    "modprobe@configfs.service", "modprobe@efi_pstore.service", "modprobe@drm.service",
    "sys-kernel-config.mount", "systemd-modules-load.service", "systemd-random-seed.service",
    "systemd-journal-flush.service", "dev-hugepages.mount", "dev-mqueue.mount",
)  # fmt: skip
INIT = """#!/bin/sh
mkdir -p /proc /dev /root
mount -t proc proc /proc
mount -t devtmpfs devtmpfs /dev
for module in $(cat /order); do insmod /modules/$module.ko; done
mount -t ext4 -o rw,noatime /dev/vda /root || poweroff -f
tar -x -C /root -f /dev/vdb || poweroff -f
umount /proc
mount --move /dev /root/dev
exec switch_root /root /sbin/init
"""


@dataclass(frozen=True)
class Suite:
    """A suite of Debian's, and what a guest of it has beside what all have."""

    name: str
    packages: tuple[str, ...] = ()
    disabled: tuple[str, ...] = ()  # units that start only when a test says so
    kernel: str = "linux-image-cloud-amd64"


PEERS = ("earlyoom", "nohang", "systemd-oomd", "oomd")
SUITES: Mapping[str, Suite] = {
    suite.name: suite
    for suite in (
        Suite("bookworm"),
        Suite("trixie"),
        Suite("sid", (*PEERS, "stress-ng"), tuple(f"{name}.service" for name in PEERS)),
    )
}


@dataclass(frozen=True)
class Root:
    """One that is built."""

    directory: Path

    @property
    def disk(self) -> Path:
        """An ext4 file system, not partitioned."""
        return self.directory / "disk"

    @property
    def kernel(self) -> Path:
        """What QEMU boots."""
        return self.unpacked.image

    @property
    def initrd(self) -> Path:
        """What mounts the disk and unpacks the guest's files on it."""
        return self.directory / "initrd"

    @property
    def unpacked(self) -> cache.Kernel:
        """The kernel with its modules, for the small guest."""
        return cache.Kernel(self.directory / "kernel")

    @property
    def about(self) -> dict[str, str]:
        """``kernel`` and each package with its version."""
        found: dict[str, str] = json.loads((self.directory / "about.json").read_text())
        return found


def suite(name: str) -> Suite:
    """Raises ValueError for one that is not among these."""
    if name not in SUITES:
        raise ValueError(f"no suite {name!r}: one of {', '.join(SUITES)}")
    return SUITES[name]


def place(of: Suite) -> Path:
    """Where it lies, or will. A changed recipe is another place."""
    recipe = (FORMAT, EARLY_MODULES, EARLY_PROGRAMS, EVERYWHERE, MASKED, INIT, of)
    key = hashlib.sha256(repr(recipe).encode()).hexdigest()[:12]
    return cache.directory() / "debian" / f"{of.name}-{key}"


def ready(name: str) -> Root:
    """Raises NotReadyError, with what to do, where it is not built."""
    found = place(suite(name))
    if not found.is_dir():
        raise NotReadyError(f"no guest of {name} here: {cache.SETUP} --suite {name}, as root")
    emulator.ready()
    return Root(found)


def build(name: str, *, update: bool = False) -> Root:
    """Build it, where it is not there or is to be newer. Root; minutes. Raises NotReadyError."""
    of = suite(name)
    there = place(of)
    if there.is_dir() and not update:
        return Root(there)
    there.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".new-", dir=there.parent) as folder:
        fresh = Path(folder, "made")
        fresh.mkdir()
        _build(of, Path(folder), fresh)
        for old in there.parent.glob(f"{name}-*"):
            shutil.rmtree(old)
        fresh.rename(there)
    return Root(there)


def _build(of: Suite, folder: Path, fresh: Path) -> None:
    tree = folder / "tree"
    listed = ",".join((*EVERYWHERE, *of.packages))
    keyring = f"--keyring={apt.KEYRING}"
    kind = ("--variant=minbase", f"--include={listed}", keyring)
    apt.command("debootstrap", *kind, of.name, str(tree), apt.mirror())
    packages = apt.Apt.of(of.name, folder / "apt")
    unpacked = folder / "kernel"
    packages.unpack([*_kernel_packages(packages, of.kernel), "busybox-static"], unpacked)
    kernel = cache.Kernel(unpacked)
    _modules(unpacked, tree, kernel.version)
    _settle(of, tree)
    (fresh / "initrd").write_bytes(_initrd(kernel, unpacked))
    (fresh / "about.json").write_text(json.dumps({"kernel": kernel.version} | _versions(tree)))
    unpacked.rename(fresh / "kernel")
    _disk(tree, fresh / "disk")


def _kernel_packages(packages: apt.Apt, name: str) -> list[str]:
    """The image of the day, with its modules and its binary where these are apart."""
    images = [d for d in packages.depends(name) if d.startswith("linux-image-")]
    if not images:
        raise NotReadyError(f"{name} depends on no image")
    wanted = re.compile(r"linux-(binary|modules|base-)\S*\d")
    return [*images, *(d for d in packages.depends(images[0]) if wanted.match(d))]


def _modules(unpacked: Path, tree: Path, version: str) -> None:
    found = next(unpacked.rglob(f"modules/{version}"))
    to = tree / "usr/lib/modules" / version
    shutil.copytree(found, to, symlinks=True)
    apt.command("chroot", str(tree), "depmod", "-a", version)


def _settle(of: Suite, tree: Path) -> None:
    """Leave nothing for a first boot to do, and nothing on that nobody asked for."""
    (tree / "etc/machine-id").write_text("1" * 32 + "\n")
    (tree / "etc/hostname").write_text("guest\n")
    (tree / "etc/fstab").write_text("")
    systemctl = ("chroot", str(tree), "systemctl", "-q")
    for unit in of.disabled:
        if any(tree.glob(f"*/lib/systemd/system/{unit}")):
            apt.command(*systemctl, "disable", unit)
    for unit in MASKED:
        link = tree / "etc/systemd/system" / unit
        link.unlink(missing_ok=True)
        link.symlink_to("/dev/null")
    for waste in ("var/cache/apt", "var/lib/apt/lists", "usr/share/doc", "usr/share/locale"):
        shutil.rmtree(tree / waste, ignore_errors=True)
    for needed in ("var/cache/apt/archives/partial", "var/lib/apt/lists/partial"):
        (tree / needed).mkdir(parents=True)


def _initrd(kernel: cache.Kernel, unpacked: Path) -> bytes:
    archive = cpio.Archive()
    archive.device("/dev/console", 5, 1)
    archive.file("/init", INIT.encode(), 0o755)
    busybox = next(path for path in unpacked.rglob("bin/busybox"))
    archive.file("/bin/busybox", busybox.read_bytes(), 0o755)
    for program in (*EARLY_PROGRAMS, "cat"):
        archive.link(f"/bin/{program}", "/bin/busybox")
    files, orders = modules.collect(kernel, EARLY_MODULES)
    order = dict.fromkeys(name for wanted in EARLY_MODULES for name in orders.get(wanted, ()))
    for name in order:
        archive.file(f"/modules/{name}.ko", files[name])
    archive.file("/order", "\n".join(order).encode())
    return archive.packed()


def _versions(tree: Path) -> dict[str, str]:
    show = ("dpkg-query", "-W", "-f", "${Package} ${Version}\\n")
    lines = apt.command("chroot", str(tree), *show).splitlines()
    return dict(line.split(" ", 1) for line in lines)


def _disk(tree: Path, disk: Path) -> None:
    used = int(apt.command("du", "-s", "--block-size=1", str(tree)).split()[0])
    blocks = (used + used // 4 + HEAD_ROOM_BYTES) >> 12
    kind = ("-q", "-t", "ext4", "-O", "^has_journal", "-m", "0", "-b", "4096")
    apt.command("mke2fs", *kind, "-d", str(tree), str(disk), str(blocks))
