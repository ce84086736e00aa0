"""The project as a user would install it, for one Debian root: pip into a venv, then make install.

It is made on this machine, in a copy of the root that only lasts that long, since pip under
emulation takes a minute; what it changed is kept as a tar, unpacked in the guest before systemd.
"""

import fcntl
import hashlib
import io
import sys
import tarfile
import tempfile
from pathlib import Path

from vmtest import apt, cache
from vmtest.roots import Root

SOURCES = Path(__file__).parents[1]
PARTS = ("src/memreap", "systemd", "man", "pyproject.toml", "Makefile", "README.md", "LICENSE")
EXTRAS = "metrics,dbus"
VENV = "/opt/memreap"
KEPT = 6
# $1: the disk, $2: a folder of its own, $3: wheels, $4: the project. In a mount namespace of its
# own, so nothing stays mounted whatever happens.
INSTALL = f"""set -e
mkdir "$2/lower" "$2/space" "$2/merged"
mount -t tmpfs tmpfs "$2/space"
mkdir "$2/space/upper" "$2/space/work"
mount -o ro,loop "$1" "$2/lower"
mount -t overlay -o "lowerdir=$2/lower,upperdir=$2/space/upper,workdir=$2/space/work" \\
    overlay "$2/merged"
cp -r "$3" "$2/merged/wheels"
chroot "$2/merged" python3 -m venv {VENV}
chroot "$2/merged" {VENV}/bin/pip install --quiet --disable-pip-version-check --no-cache-dir \\
    --no-index --find-links /wheels "memreap[{EXTRAS}]"
rm -r "$2/merged/wheels"
make --quiet -C "$4" install DESTDIR="$2/merged" PREFIX=/usr >/dev/null
mkdir -p "$2/merged/usr/local/bin"
ln -s {VENV}/bin/memreap "$2/merged/usr/local/bin/memreap"
tar -c -C "$2/space/upper" -f "$2/layer.tar" .
"""


def layer(root: Root) -> bytes:
    """A tar of what an installation adds to this root; made once for each state of the project.

    Raises NotReadyError.
    """
    place = cache.directory() / "layers" / f"{root.directory.name}-{_state()}.tar"
    place.parent.mkdir(parents=True, exist_ok=True)
    with open(place.parent / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # pip builds one source tree once at a time
        if not place.exists():
            with tempfile.TemporaryDirectory(prefix=".new-", dir=place.parent) as folder:
                _install(root, Path(folder)).rename(place)
            _keep_the_latest(place.parent)
        return place.read_bytes()


def _keep_the_latest(directory: Path) -> None:
    by_age = sorted(directory.glob("*.tar"), key=lambda p: p.stat().st_mtime, reverse=True)
    for old in by_age[KEPT:]:
        old.unlink(missing_ok=True)


def _state() -> str:
    """What the project looks like now."""
    known = hashlib.sha256(INSTALL.encode())
    for part in PARTS:
        path = SOURCES / part
        for file in [path] if path.is_file() else sorted(path.rglob("*")):
            if file.is_file() and file.suffix != ".pyc":
                known.update(f"{file.relative_to(SOURCES)}\0".encode() + file.read_bytes())
    return known.hexdigest()[:16]


def _install(root: Root, folder: Path) -> Path:
    wheels = folder / "wheels"
    pip = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")
    build = ("wheel", "--wheel-dir", str(wheels), f"{SOURCES}[{EXTRAS}]")
    apt.command(*pip, *build, cwd=folder)
    shell = ("unshare", "--mount", "--propagation", "private", "sh", "-c", INSTALL, "install")
    apt.command(*shell, str(root.disk), str(folder), str(wheels), str(SOURCES))
    return folder / "layer.tar"


def merged(layer_tar: bytes, files: dict[str, bytes], links: dict[str, str]) -> bytes:
    """The layer with more files (absolute path -> content) and symbolic links (path -> target)."""
    whole = io.BytesIO(layer_tar)
    with tarfile.open(fileobj=whole, mode="a", format=tarfile.GNU_FORMAT) as archive:
        for path, content in files.items():
            entry = tarfile.TarInfo(path.lstrip("/"))
            entry.size, entry.mode = len(content), 0o644
            archive.addfile(entry, io.BytesIO(content))
        for path, target in links.items():
            entry = tarfile.TarInfo(path.lstrip("/"))
            entry.type, entry.linkname = tarfile.SYMTYPE, target
            archive.addfile(entry)
    return whole.getvalue()
