"""Debian's packages of any suite, from the mirror that this machine's own apt uses.

Nothing is installed on this machine by what lives here, and its apt knows nothing of it.
"""

import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from vmtest.cache import NotReadyError

KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
SOURCES = (Path("/etc/apt/sources.list"), *Path("/etc/apt/sources.list.d").glob("*"))
TIMEOUT_S = 900
_MIRROR = re.compile(r"^(?:deb\s.*?|URIs:\s*)(\w+://\S*debian/?)\s*(?:\s|$)", re.MULTILINE)
_DEPENDS = re.compile(r"^  (?:Pre)?Depends: (\S+)", re.MULTILINE)


def command(*argv: str, cwd: Path | str | None = None, timeout_s: float = TIMEOUT_S) -> str:
    """Run to the end; its stdout. Raises NotReadyError with the line it complained in."""
    try:
        done = subprocess.run(
            argv,
            cwd=cwd,
            env=os.environ | {"DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_s,
            check=False,
        )
    except FileNotFoundError:
        raise NotReadyError(f"no {argv[0]} here") from None
    except subprocess.TimeoutExpired:
        raise NotReadyError(f"{' '.join(argv)}: no end after {timeout_s:g} s") from None
    if done.returncode != 0:
        lines = (done.stderr + done.stdout).splitlines()
        said = [line for line in lines if line.strip()] or ["no word why"]
        errors = [line for line in said if line.startswith("E:")] or said[-1:]
        raise NotReadyError(f"{' '.join(argv)}: {errors[0].strip()}")
    return done.stdout


def mirror() -> str:
    """Where this machine's apt gets Debian from. Raises NotReadyError."""
    for file in SOURCES:
        if file.is_file() and (found := _MIRROR.search(file.read_text(errors="replace"))):
            return found[1]
    raise NotReadyError("no Debian mirror in /etc/apt")


@dataclass(frozen=True)
class Apt:
    """One suite's packages; ``directory``: for its lists, made by ``Apt.of``."""

    directory: Path
    options: tuple[str, ...]

    @classmethod
    def of(cls, suite: str, directory: Path) -> "Apt":
        """Fetch what the suite has. Raises NotReadyError."""
        for folder in ("lists/partial", "archives/partial"):
            (directory / folder).mkdir(parents=True, exist_ok=True)
        sources = f"deb [signed-by={KEYRING}] {mirror()} {suite} main\n"
        (directory / "sources.list").write_text(sources)
        (directory / "status").write_text("")
        settings = {
            "Dir::Etc::sourcelist": directory / "sources.list",
            "Dir::Etc::sourceparts": "-",
            "Dir::State::lists": directory / "lists",
            "Dir::State::status": directory / "status",
            "Dir::Cache": directory,
            "APT::Sandbox::User": "root",  # apt's own user cannot write there
        }
        made = cls(directory, tuple(p for k, v in settings.items() for p in ("-o", f"{k}={v}")))
        command("apt-get", "-qq", *made.options, "update")
        return made

    def depends(self, package: str) -> list[str]:
        """The names a package depends on. Raises NotReadyError where there is none such."""
        return _DEPENDS.findall(command("apt-cache", *self.options, "depends", package))

    def unpack(self, packages: list[str], root: Path) -> None:
        """Download and unpack these, without installing."""
        self._unpack(("download", *packages), root)

    def unpack_whole(self, package: str, root: Path) -> None:
        """The same with all that it depends on."""
        self._unpack(("install", "--download-only", "--no-install-recommends", package), root)

    def _unpack(self, getting: tuple[str, ...], root: Path) -> None:
        place = self.directory / "archives"
        for old in place.glob("*.deb"):
            old.unlink()
        command("apt-get", "-qq", *self.options, *getting, cwd=place)
        for archive in sorted(place.glob("*.deb")):
            command("dpkg-deb", "-x", str(archive), str(root))
