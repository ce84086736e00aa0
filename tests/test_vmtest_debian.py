"""How a guest with a whole Debian is put together, as far as no guest is needed to see it."""

import io
import subprocess
import tarfile
from pathlib import Path

import pytest
from vmtest import apt, cache, project, roots
from vmtest.cache import NotReadyError
from vmtest.roots import Suite


def packed(**files: str) -> bytes:
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name, text in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(text)
            archive.addfile(entry, io.BytesIO(text.encode()))
    return whole.getvalue()


def test_a_guests_files_lie_over_what_was_installed(tmp_path: Path) -> None:
    files = {"/memreap/script.py": b"print(1)\n", "/" + "long/" * 30 + "name": b"deep"}
    whole = project.merged(packed(installed="yes"), files, {"/etc/wants": "/etc/unit"})
    (tmp_path / "files.tar").write_bytes(whole)
    subprocess.run(["tar", "-x", "-f", "files.tar"], cwd=tmp_path, check=True)
    assert (tmp_path / "installed").read_text() == "yes"
    assert (tmp_path / "memreap/script.py").read_text() == "print(1)\n"
    assert (tmp_path / ("long/" * 30) / "name").read_text() == "deep"
    assert (tmp_path / "etc/wants").readlink() == Path("/etc/unit")
    assert len(whole) % 512 == 0, "a disk is whole sectors"


@pytest.mark.parametrize(
    "text",
    [
        "Types: deb\nURIs: http://mirror.example/debian\nSuites: bookworm\n",
        "deb-src http://x.example/other a\ndeb [arch=a] http://mirror.example/debian sid main\n",
    ],
)
def test_the_mirror_is_the_machines_own(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "some.sources").write_text(text)
    monkeypatch.setattr(apt, "SOURCES", (tmp_path / "none", tmp_path / "some.sources"))
    assert apt.mirror() == "http://mirror.example/debian"


def test_without_a_mirror_one_line_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apt, "SOURCES", ())
    with pytest.raises(NotReadyError, match="no Debian mirror"):
        apt.mirror()


def test_what_fails_is_told_in_one_line() -> None:
    with pytest.raises(NotReadyError, match=r"sh -c .*: E: no such package$"):
        apt.command("sh", "-c", "echo noise >&2; echo 'E: no such package' >&2; exit 100")
    with pytest.raises(NotReadyError, match="no such-program-as-this here"):
        apt.command("such-program-as-this")
    with pytest.raises(NotReadyError, match=r"no end after 0\.1 s"):
        apt.command("sleep", "5", timeout_s=0.1)


class Known(apt.Apt):
    """A suite whose packages are told."""

    table: dict[str, list[str]]

    def depends(self, package: str) -> list[str]:
        return self.table[package]


@pytest.mark.parametrize(
    ("table", "wanted"),
    [
        (
            {"meta": ["linux-image-6.1.0-5"], "linux-image-6.1.0-5": ["kmod", "linux-base"]},
            ["linux-image-6.1.0-5"],
        ),
        (
            {
                "meta": ["linux-base-cloud", "linux-image-7.2.1"],
                "linux-image-7.2.1": ["linux-base", "linux-binary-7.2.1", "linux-modules-7.2.1"],
            },
            ["linux-image-7.2.1", "linux-binary-7.2.1", "linux-modules-7.2.1"],
        ),
    ],
)
def test_a_kernel_is_all_of_its_packages(table: dict[str, list[str]], wanted: list[str]) -> None:
    packages = Known(Path(), ())
    object.__setattr__(packages, "table", table)
    assert roots._kernel_packages(packages, "meta") == wanted


def test_a_kernel_lies_where_its_release_puts_it(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    for root, image in ((old, "boot/vmlinuz-6.1"), (new, "usr/lib/modules/7.2/vmlinuz")):
        (root / image).parent.mkdir(parents=True)
        (root / image).touch()
        modules = root / "usr/lib/modules" / ("6.1" if root is old else "7.2")
        modules.mkdir(parents=True, exist_ok=True)
        (modules / "modules.builtin").touch()
    assert cache.Kernel(old).image.name == "vmlinuz-6.1"
    assert cache.Kernel(new).image == new / "usr/lib/modules/7.2/vmlinuz"
    assert [cache.Kernel(root).version for root in (old, new)] == ["6.1", "7.2"]


def test_another_recipe_is_another_root() -> None:
    one, more = Suite("trixie"), Suite("trixie", ("stress-ng",))
    assert roots.place(one).name.startswith("trixie-")
    assert roots.place(one) != roots.place(more)
    assert roots.place(one) == roots.place(Suite("trixie"))


def test_one_that_is_not_built_says_how(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(NotReadyError, match="--suite trixie, as root"):
        roots.ready("trixie")
    with pytest.raises(ValueError, match="one of bookworm, trixie, sid"):
        roots.ready("potato")
