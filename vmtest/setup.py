"""Bring what guests need: QEMU through apt, and a kernel for guests, unpacked into the cache.

The kernel is downloaded, never installed.
"""

import contextlib
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from vmtest import cache
from vmtest.cache import Kernel, NotReadyError

QEMU_PACKAGE = "qemu-system-x86"
# Debian's and Ubuntu's; each depends on the kernel of the day.
KERNEL_METAPACKAGES = ("linux-image-cloud-amd64", "linux-image-virtual")
_DEPENDS = re.compile(r"(?:Depends|Suggests): (linux-(?:image|modules|modules-extra)-\d\S+)")
APT_TIMEOUT_S = 600


def setup(*, update: bool = False) -> Kernel:
    """Bring what is missing; nothing is asked of the network where all is there.

    ``update``: look for a newer kernel. Raises NotReadyError.
    """
    if not update:
        with contextlib.suppress(NotReadyError):
            return cache.ready()
    if os.geteuid() != 0:
        raise NotReadyError("set-up installs packages: run it as root")
    for tool in ("apt-get", "apt-cache", "dpkg-deb"):
        if shutil.which(tool) is None:
            raise NotReadyError(f"no {tool}: set-up knows Debian and Ubuntu")
    trouble = None
    try:  # a stranger's list that cannot be had need not matter
        _command("apt-get", "update", "-qq", "-o", "APT::Update::Error-Mode=any")
    except NotReadyError as error:
        trouble = error
    try:
        _bring(update)
    except NotReadyError as error:
        raise trouble or error from None
    return cache.ready()


def _bring(update: bool) -> None:
    if shutil.which(cache.QEMU) is None:
        _command("apt-get", "install", "-y", "-qq", "--no-install-recommends", QEMU_PACKAGE)
    if update or not cache.kernels():
        _fetch(_kernel_packages())


def _kernel_packages() -> list[str]:
    """The image, and its modules where they are a package of their own."""
    for metapackage in KERNEL_METAPACKAGES:
        with contextlib.suppress(NotReadyError):  # apt-cache fails for a name that it never heard
            if images := _DEPENDS.findall(_command("apt-cache", "depends", metapackage)):
                below = _DEPENDS.findall(_command("apt-cache", "depends", images[0]))
                return [images[0], *(name for name in below if name.startswith("linux-modules-"))]
    raise NotReadyError(f"apt knows none of {', '.join(KERNEL_METAPACKAGES)}")


def _fetch(packages: list[str]) -> None:
    """Unpack the candidate versions of a kernel's packages, whole or not at all."""
    home = cache.directory() / "kernels"
    home.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".new-", dir=home) as folder:
        # As root by choice: apt's own user cannot write here, and would only warn about it.
        get = ("apt-get", "-qq", "-o", "APT::Sandbox::User=root", "download")
        _command(*get, *packages, cwd=folder)
        archives = sorted(Path(folder).glob("*.deb"))  # linux-image before linux-modules
        place = home / archives[0].stem
        if place.exists():
            os.utime(place)
            return
        fresh = Path(folder, "root")
        for archive in archives:
            _command("dpkg-deb", "-x", str(archive), str(fresh))
        fresh.chmod(0o755)
        os.utime(fresh)
        fresh.rename(place)


def _command(*argv: str, cwd: str | None = None) -> str:
    """Run to the end; its stdout. Raises NotReadyError with the last line it complained in."""
    try:
        done = subprocess.run(
            argv,
            cwd=cwd,
            env=os.environ | {"DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=APT_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise NotReadyError(f"{' '.join(argv)}: no end after {APT_TIMEOUT_S} s") from None
    if done.returncode != 0:
        said = [line for line in done.stderr.splitlines() if line.strip()] or ["no word why"]
        errors = [line for line in said if line.startswith("E:")] or said
        raise NotReadyError(f"{' '.join(argv)}: {errors[0].strip()}")
    return done.stdout
