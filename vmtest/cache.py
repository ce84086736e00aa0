"""What a guest is made from, where it lies on this machine, and what is missing.

One directory, ``$XDG_CACHE_HOME/memreap/vmtest``: a folder for every kernel, packed images, QEMU.
"""

import os
from dataclasses import dataclass
from pathlib import Path

SETUP = "python -m vmtest setup"


class NotReadyError(Exception):
    """A guest cannot be booted here; the text, one line, is the reason."""


@dataclass(frozen=True)
class Kernel:
    """A distribution's kernel, unpacked."""

    directory: Path

    @property
    def image(self) -> Path:
        """What QEMU boots."""
        found = [*self.directory.glob("boot/vmlinuz-*"), *self.directory.rglob("modules/*/vmlinuz")]
        return found[0]

    @property
    def version(self) -> str:
        """As uname(1) prints it."""
        return next(self.directory.rglob("modules.builtin")).parent.name

    @property
    def name(self) -> str:
        """The package and its version; of a suite's, the version."""
        return self.directory.name if self.directory.name != "kernel" else self.version

    def has_built_in(self, name: str) -> bool:
        """Whether this module is no file but part of the kernel."""
        wanted = name.replace("-", "_")
        listed = next(self.directory.rglob("modules.builtin")).read_text().split()
        return any(Path(path).stem.replace("-", "_") == wanted for path in listed)

    def module(self, name: str) -> Path:
        """The file of a module, as packed as it is. Raises FileNotFoundError."""
        for spelling in (name, name.replace("_", "-")):
            for path in self.directory.rglob(f"{spelling}.ko*"):
                return path
        raise FileNotFoundError(f"{self.name} has no module {name}")


def directory() -> Path:
    """The cache's root; it need not be there."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home, "memreap", "vmtest")


def kernels() -> list[Kernel]:
    """Every kernel that is there, the one unpacked last first."""
    found = [path for path in directory().glob("kernels/linux-*_*") if path.is_dir()]
    return [Kernel(path) for path in sorted(found, key=lambda p: p.stat().st_mtime, reverse=True)]


def newest() -> Kernel:
    """The kernel to boot. Raises NotReadyError, with what to do, where there is none."""
    if not (found := kernels()):
        raise NotReadyError(f"no kernel in {directory()}: {SETUP}, as root")
    return found[0]
