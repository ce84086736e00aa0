"""The archive that the kernel unpacks at boot: cpio, "newc". See initramfs buffer-format.rst."""

import stat
from dataclasses import dataclass, field
from pathlib import PurePosixPath

_MAGIC = "070701"


@dataclass
class Archive:
    """Everything belongs to root; parents are made as they are needed."""

    _parts: list[bytes] = field(default_factory=list)
    _names: set[str] = field(default_factory=set)

    def file(self, path: str, content: bytes, mode: int = 0o644) -> None:
        """A regular file; ``path`` is absolute."""
        self._entry(path, stat.S_IFREG | mode, content)

    def link(self, path: str, target: str) -> None:
        """A symbolic link."""
        self._entry(path, stat.S_IFLNK | 0o777, target.encode())

    def directory(self, path: str) -> None:
        """A directory; not needed for what a file lies in."""
        self._entry(path, stat.S_IFDIR | 0o755, b"")

    def device(self, path: str, major: int, minor: int) -> None:
        """A character device, for what must be open before /dev is mounted."""
        self._entry(path, stat.S_IFCHR | 0o600, b"", (major, minor))

    def packed(self) -> bytes:
        """The archive, with its end; two may follow each other in one image."""
        trailer = _record("TRAILER!!!", 0, b"", (0, 0))
        whole = b"".join([*self._parts, trailer])
        return whole + b"\0" * (-len(whole) % 512)

    def _entry(
        self, path: str, mode: int, content: bytes, device: tuple[int, int] = (0, 0)
    ) -> None:
        name = path.strip("/")
        if not name or name in self._names:
            return
        parent = str(PurePosixPath(name).parent)
        if parent != ".":
            self.directory(parent)
        self._names.add(name)
        self._parts.append(_record(name, mode, content, device))


def _record(name: str, mode: int, content: bytes, device: tuple[int, int]) -> bytes:
    raw_name = name.encode() + b"\0"
    # ino, mode, uid, gid, nlink, mtime, filesize, dev, dev, rdev, rdev, namesize, check
    fields = (0, mode, 0, 0, 1, 0, len(content), 0, 0, *device, len(raw_name), 0)
    header = (_MAGIC + "".join(f"{value:08X}" for value in fields)).encode() + raw_name
    return header + b"\0" * (-len(header) % 4) + content + b"\0" * (-len(content) % 4)
