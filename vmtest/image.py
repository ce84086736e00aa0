"""What the guest's memory holds at boot: Python, packages, modules; then project and script.

Two cpio archives, one behind the other: the first changes with Python and the kernel and is kept
in the cache, the second is made for each run. Python is the one that runs this, at its own paths,
as bytecode without sources, because compiling is what costs most under emulation.
"""

import contextlib
import hashlib
import importlib.metadata
import importlib.util
import json
import marshal
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator, Mapping
from importlib.machinery import EXTENSION_SUFFIXES, SourceFileLoader
from pathlib import Path
from types import CodeType

from vmtest import cache, cpio, modules

HOME = "/memreap"
KEPT = 3  # packed ones, for as many Pythons and kernels
ROOT = Path(__file__).parents[1]
PACKAGES = ("click", "rich", "markdown-it-py", "mdurl", "pygments")
# The host's own, for what starts other programs.
PROGRAMS = ("sh", "sleep", "true", "cat")
_NOT_NEEDED = re.compile(
    r"(test|tests|idlelib|tkinter|turtledemo|ensurepip|lib2to3|distutils|pydoc_data"
    r"|site-packages|dist-packages|config-.*|__pycache__|.*\.dist-info)"
)
# Without OpenSSL hashlib has its own; loading it takes longer than Python's start.
_NO_EXTENSION = re.compile(
    r"(_ssl|_hashlib|_tkinter|_curses.*|readline|nis|ossaudiodev|_test.*|_xx.*|xx.*|_codecs_.*"
    r"|_ctypes_test)\."
)
_UNCHECKED_HASH = 1
_LIBRARY = re.compile(r"^\s+(?:\S+ => )?(/\S+) \(0x", re.MULTILINE)


def base(kernel: cache.Kernel) -> bytes:
    """The first archive; packed once."""
    place = cache.directory() / "images" / f"{_key(kernel)}.cpio"
    try:
        return place.read_bytes()
    except FileNotFoundError:
        content = _pack(kernel)
    place.parent.mkdir(parents=True, exist_ok=True)
    by_age = sorted(place.parent.glob("*.cpio"), key=lambda p: p.stat().st_mtime, reverse=True)
    for old in by_age[KEPT - 1 :]:
        old.unlink(missing_ok=True)
    with tempfile.NamedTemporaryFile(dir=place.parent, delete=False) as file:
        file.write(content)
    Path(file.name).rename(place)
    return content


def ours(script: str, options: object, files: Mapping[str, bytes]) -> bytes:
    """The second archive: the project as it is now, and this run's script."""
    archive = cpio.Archive()
    archive.file("/init", f"#!{_interpreter()} -SE\n".encode() + _source("init.py"), 0o755)
    for package in (ROOT / "src" / "memreap", ROOT / "vmtest"):
        for path in sorted(package.rglob("*.py")):
            _with_bytecode(archive, path, f"{HOME}/{path.relative_to(package.parent)}")
    archive.file(f"{HOME}/script.py", script.encode())
    archive.file(f"{HOME}/options.json", json.dumps(options).encode())
    for name, content in files.items():
        archive.file(name, content)
    return archive.packed()


def _source(name: str) -> bytes:
    return (Path(__file__).parent / name).read_bytes()


def _key(kernel: cache.Kernel) -> str:
    about = [kernel.name, sys.version, _interpreter(), Path(_interpreter()).stat().st_mtime_ns]
    about += [f"{name} {importlib.metadata.version(name)}" for name in PACKAGES]
    recipe = b"".join(_source(name) for name in ("image.py", "cpio.py", "modules.py"))
    return hashlib.sha256(json.dumps(about).encode() + recipe).hexdigest()[:16]


def _interpreter() -> str:
    return os.path.realpath(sys.executable)


def _pack(kernel: cache.Kernel) -> bytes:
    archive = cpio.Archive()
    for name in ("dev", "proc", "sys", "run", "tmp", "root"):
        archive.directory(name)
    archive.device("/dev/console", 5, 1)
    archive.device("/dev/urandom", 1, 9)
    archive.file("/etc/passwd", b"root:x:0:0::/root:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n")
    archive.file("/etc/group", b"root:x:0:\nnogroup:x:65534:\n")
    binaries = [_interpreter(), *_standard_library(archive)]
    archive.link("/usr/bin/python3", _interpreter())
    for name in PROGRAMS:
        if found := shutil.which(name):
            binary = os.path.realpath(found)
            archive.file(binary, Path(binary).read_bytes(), 0o755)
            archive.link(f"/bin/{name}", binary)
            binaries.append(binary)
    for path in (_interpreter(), *_libraries(binaries)):
        archive.file(path, Path(path).read_bytes(), 0o755)
    for name in PACKAGES:
        _package(archive, name)
    ko_files, orders = modules.collect(kernel)
    for name, content in ko_files.items():
        archive.file(f"{HOME}/modules/{name}.ko", content)
    archive.file(f"{HOME}/modules/orders.json", json.dumps(orders).encode())
    return archive.packed()


def _standard_library(archive: cpio.Archive) -> list[str]:
    """Its extensions' paths."""
    extensions: list[str] = []
    for path in _walk(Path(sysconfig.get_path("stdlib"))):
        if path.suffix == ".py":
            archive.file(f"{path}c", _bytecode(_code(path)))
        elif path.suffix == ".so" and not _NO_EXTENSION.match(path.name):
            archive.file(str(path), path.read_bytes(), 0o755)
            extensions.append(str(path))
    return extensions


def _package(archive: cpio.Archive, name: str) -> None:
    for listed in importlib.metadata.files(name) or ():
        path = Path(str(listed.locate()))
        if any(_NOT_NEEDED.fullmatch(part) for part in listed.parts) or ".." in listed.parts:
            continue
        if path.suffix == ".py":
            archive.file(f"{HOME}/{listed}c", _bytecode(_code(path)))
        elif not path.name.endswith((*EXTENSION_SUFFIXES, ".pyc")):
            archive.file(f"{HOME}/{listed}", path.read_bytes())


def _walk(top: Path) -> Iterator[Path]:
    for place, folders, names in os.walk(top):
        folders[:] = sorted(name for name in folders if not _NOT_NEEDED.fullmatch(name))
        yield from (Path(place, name) for name in sorted(names))


def _libraries(binaries: list[str]) -> list[str]:
    listed = subprocess.run(["ldd", *binaries], capture_output=True, text=True, check=False).stdout
    return sorted(set(_LIBRARY.findall(listed)))


def _code(path: Path) -> CodeType:
    code = SourceFileLoader(path.stem, str(path)).get_code(path.stem)  # from its .pyc, if it can
    assert code is not None
    return code


def _bytecode(code: CodeType) -> bytes:
    flags = _UNCHECKED_HASH.to_bytes(4, "little")
    return importlib.util.MAGIC_NUMBER + flags + bytes(8) + marshal.dumps(code)


def _with_bytecode(archive: cpio.Archive, path: Path, place: str) -> None:
    """Source and bytecode, for tracebacks that show lines."""
    archive.file(place, path.read_bytes())
    with contextlib.suppress(SyntaxError):  # one that is just being written: whoever needs it sees
        archive.file(importlib.util.cache_from_source(place), _bytecode(_code(path)))
