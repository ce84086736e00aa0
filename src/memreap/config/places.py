"""Where configuration lies, and what may be read of it.

As systemd has it: of the main files the first found counts, in /etc, /run, /usr/local/lib,
/usr/lib; of drop-ins all, sorted by name, and a name that stands in several directories counts in
the first of them. See oomd.conf(5), "Configuration directories and precedence".
"""

import os
import pwd
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field

from memreap.config.faults import DEFAULT, ENVIRONMENT, Fault, Origin
from memreap.linux.procfs import Procfs

NAME = "memreap.toml"
DIRECTORIES = ("/etc/memreap", "/run/memreap", "/usr/local/lib/memreap", "/usr/lib/memreap")
FILE_BYTES_MAX = 1 << 20
DEV_NULL = os.makedev(1, 3)


class UnreadableError(Exception):
    """A file that is not taken; its text says why."""


@dataclass(frozen=True, slots=True)
class Places:
    """Whose guard it is, and where it looks."""

    uid: int = field(default_factory=os.geteuid)
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ)
    root: str = ""  # of all the directories below; another one serves tests
    procfs: Procfs = field(default_factory=Procfs)
    trusted: tuple[int, ...] = (0,)  # whose files count, besides one's own

    @property
    def is_root(self) -> bool:
        """Whether it is the machine's guard, and not a user's."""
        return self.uid == 0

    def system_files(self, faults: list[Fault]) -> list[str]:
        """Main file and drop-ins of the machine, in the order in which they count."""
        return _layer([self.root + directory for directory in DIRECTORIES], faults)

    def user_files(self, faults: list[Fault]) -> list[str]:
        """The same of the user."""
        home = self._xdg("XDG_CONFIG_HOME", ".config")
        return _layer([f"{self.root}{home}/memreap"], faults) if home else []

    def database(self) -> tuple[str, Origin]:
        """Where incidents are kept unless a file says otherwise."""
        directory = self._from_systemd("STATE_DIRECTORY")
        if directory:
            return f"{directory}/incidents.db", Origin(ENVIRONMENT)
        if self.is_root:
            return "/var/lib/memreap/incidents.db", Origin(DEFAULT)
        state = self._xdg("XDG_STATE_HOME", ".local/state")
        return (f"{state}/memreap/incidents.db" if state else ""), Origin(DEFAULT)

    def socket(self) -> tuple[str, Origin]:
        """Where `memreap status` asks unless a file says otherwise."""
        directory = self._from_systemd("RUNTIME_DIRECTORY")
        if directory:
            return f"{directory}/guard.sock", Origin(ENVIRONMENT)
        if self.is_root:
            return "/run/memreap/guard.sock", Origin(DEFAULT)
        runtime = _absolute(self.environ.get("XDG_RUNTIME_DIR", ""))
        return (f"{runtime}/memreap/guard.sock" if runtime else ""), Origin(DEFAULT)

    def _from_systemd(self, variable: str) -> str:
        """StateDirectory= and the like: several are separated by colons."""
        return _absolute(self.environ.get(variable, "").partition(":")[0])

    def _xdg(self, variable: str, below_home: str) -> str:
        """A base directory; "" for who has no home. Relative ones are to be ignored, says XDG."""
        base = _absolute(self.environ.get(variable, ""))
        if base:
            return base
        home = _absolute(self.environ.get("HOME", "")) or _home(self.uid)
        return f"{home}/{below_home}" if home else ""

    def read(self, path: str) -> bytes | None:
        """What a file holds; None: it is a link to /dev/null, which hides those below it.

        Raises UnreadableError.
        """
        try:
            # Non-blocking: a FIFO without a writer would wait for one.
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            raise UnreadableError(f"cannot be read: {reason}") from None
        try:
            status = os.fstat(fd)
            if stat.S_ISCHR(status.st_mode) and status.st_rdev == DEV_NULL:
                return None
            self._check(status)
            with open(fd, "rb", closefd=False) as file:
                raw = file.read(FILE_BYTES_MAX + 1)
        except OSError as error:
            raise UnreadableError(f"cannot be read: {error.strerror}") from None
        finally:
            os.close(fd)
        if len(raw) > FILE_BYTES_MAX:
            raise UnreadableError("larger than 1 MiB")
        return raw

    def _check(self, status: os.stat_result) -> None:
        """Whoever can write the file tells the guard whom to kill, and what to run."""
        mode = stat.S_IMODE(status.st_mode)
        if not stat.S_ISREG(status.st_mode):
            raise UnreadableError("not a regular file")
        if status.st_size > FILE_BYTES_MAX:
            raise UnreadableError("larger than 1 MiB")
        if status.st_uid not in (self.uid, *self.trusted):
            mine = "root" if self.is_root else "root or you"
            raise UnreadableError(f"not trusted: belongs to uid {status.st_uid}, not to {mine}")
        # Many distributions give each user a group of his own, and let it write.
        if mode & (0o022 if self.is_root else 0o002):
            raise UnreadableError(f"not trusted: others may write it (mode {mode:o})")


def _absolute(path: str) -> str:
    return path.rstrip("/") if path.startswith("/") and "\0" not in path else ""


def _home(uid: int) -> str:
    try:
        return _absolute(pwd.getpwuid(uid).pw_dir)
    except (KeyError, OverflowError):
        return ""


def _layer(directories: list[str], faults: list[Fault]) -> list[str]:
    """``directories``: the one that counts most first."""
    mains = [f"{directory}/{NAME}" for directory in directories]
    main = next((path for path in mains if os.path.lexists(path)), None)
    drop_ins: dict[str, str] = {}
    for path in reversed(mains):
        drop_ins |= {name: f"{path}.d/{name}" for name in _names(f"{path}.d", faults)}
    return ([main] if main else []) + [drop_ins[name] for name in sorted(drop_ins)]


def _names(directory: str, faults: list[Fault]) -> list[str]:
    try:
        names = os.listdir(directory)
    except FileNotFoundError:
        return []
    except OSError as error:
        faults.append(Fault(directory, 0, "", f"cannot be read: {error.strerror}"))
        return []
    return [name for name in names if name.endswith(".toml") and not name.startswith(".")]
