"""Bring what guests need: QEMU and a kernel, unpacked into the cache; whole Debians.

What builds a Debian is installed, where it is not there; of QEMU, kernels and suites nothing is.
"""

import contextlib
import os
import re
import shutil
import tempfile
from pathlib import Path

from vmtest import apt, cache, emulator, roots
from vmtest.cache import Kernel, NotReadyError
from vmtest.roots import Root

# Debian's and Ubuntu's; each depends on the kernel of the day.
KERNEL_METAPACKAGES = ("linux-image-cloud-amd64", "linux-image-virtual")
_DEPENDS = re.compile(r"(?:Depends|Suggests): (linux-(?:image|modules|modules-extra)-\d\S+)")
# What a suite is built and installed into by: program, package.
BUILDERS = (("debootstrap", "debootstrap"), ("mke2fs", "e2fsprogs"), ("make", "make"))


def setup(*, update: bool = False) -> Kernel:
    """Bring what is missing; nothing is asked of the network where all is there.

    ``update``: look for a newer kernel. Raises NotReadyError.
    """
    if not update:
        with contextlib.suppress(NotReadyError):
            emulator.ready()
            return cache.newest()
    if os.geteuid() != 0:
        raise NotReadyError("set-up installs packages: run it as root")
    for tool in ("apt-get", "apt-cache", "dpkg-deb"):
        if shutil.which(tool) is None:
            raise NotReadyError(f"no {tool}: set-up knows Debian and Ubuntu")
    trouble = None
    try:  # a stranger's list that cannot be had need not matter
        apt.command("apt-get", "update", "-qq", "-o", "APT::Update::Error-Mode=any")
    except NotReadyError as error:
        trouble = error
    try:
        _bring(update)
    except NotReadyError as error:
        raise trouble or error from None
    return cache.newest()


def build(suite: str, *, update: bool = False) -> Root:
    """A whole Debian of a suite, built where it is not there. Raises NotReadyError."""
    if not update:
        with contextlib.suppress(NotReadyError):
            return roots.ready(suite)
    if os.geteuid() != 0:
        raise NotReadyError("a Debian is built in a chroot: run it as root")
    missing = [package for program, package in BUILDERS if shutil.which(program) is None]
    if missing:
        apt.command("apt-get", "update", "-qq")
        apt.command("apt-get", "install", "-y", "-qq", "--no-install-recommends", *missing)
    return roots.build(suite, update=update)


def _bring(update: bool) -> None:
    emulator.bring()
    if update or not cache.kernels():
        _fetch(_kernel_packages())


def _kernel_packages() -> list[str]:
    """The image, and its modules where they are a package of their own."""
    for metapackage in KERNEL_METAPACKAGES:
        with contextlib.suppress(NotReadyError):  # apt-cache fails for a name that it never heard
            if images := _DEPENDS.findall(apt.command("apt-cache", "depends", metapackage)):
                below = _DEPENDS.findall(apt.command("apt-cache", "depends", images[0]))
                return [images[0], *(name for name in below if name.startswith("linux-modules-"))]
    raise NotReadyError(f"apt knows none of {', '.join(KERNEL_METAPACKAGES)}")


def _fetch(packages: list[str]) -> None:
    """Unpack the candidate versions of a kernel's packages, whole or not at all."""
    home = cache.directory() / "kernels"
    home.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".new-", dir=home) as folder:
        # As root by choice: apt's own user cannot write here, and would only warn about it.
        get = ("apt-get", "-qq", "-o", "APT::Sandbox::User=root", "download")
        apt.command(*get, *packages, cwd=folder)
        archives = sorted(Path(folder).glob("*.deb"))  # linux-image before linux-modules
        place = home / archives[0].stem
        if place.exists():
            os.utime(place)
            return
        fresh = Path(folder, "root")
        for archive in archives:
            apt.command("dpkg-deb", "-x", str(archive), str(fresh))
        fresh.chmod(0o755)
        os.utime(fresh)
        fresh.rename(place)
