"""Which QEMU boots a guest, as far as no guest is needed to see it."""

import os
from pathlib import Path

import pytest
from vmtest import apt, cache, emulator
from vmtest.cache import NotReadyError


class Host:
    """A machine with this CPU, and this QEMU of its own."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        (folder / "bin").mkdir()
        (folder / "kvm").touch()
        self.cpu("fpu vme")
        monkeypatch.setenv("PATH", str(folder / "bin"))
        monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        monkeypatch.setattr(emulator, "KVM", folder / "kvm")
        monkeypatch.setattr(emulator, "CPUINFO", folder / "cpuinfo")

    def cpu(self, flags: str) -> None:
        (self.folder / "cpuinfo").write_text(f"flags\t\t: {flags}\n")

    def qemu(self, version: str) -> str:
        path = self.folder / "bin" / emulator.PROGRAM
        path.write_text(f"#!/bin/sh\necho 'QEMU emulator version {version} (Debian 1:{version})'\n")
        path.chmod(0o755)
        return str(path)


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    if os.uname().machine != "x86_64":
        pytest.skip("guests are x86_64")
    return Host(tmp_path, monkeypatch)


def test_without_kvm_an_old_one_is_no_use(host: Host) -> None:
    host.qemu("7.2.22")
    with pytest.raises(NotReadyError, match=r"no qemu-system-x86_64 of 10\.0 or newer: python"):
        emulator.ready()


@pytest.mark.parametrize("version", ["10.0.13", "11.1.0"])
def test_the_machines_own_is_used_where_it_is_new(host: Host, version: str) -> None:
    own = host.qemu(version)
    assert emulator.ready().argv == (own,)
    assert "tcg,thread=multi" in emulator.ready().acceleration()


def test_with_kvm_any_will_do(host: Host) -> None:
    host.cpu("fpu vmx")
    own = host.qemu("7.2.22")
    assert emulator.ready().argv == (own,)
    assert "kvm" in emulator.ready().acceleration()


def test_kvm_without_its_device_is_none(host: Host) -> None:
    host.cpu("fpu svm")
    (host.folder / "kvm").unlink()
    assert not emulator.has_kvm()


def test_one_that_was_brought_runs_by_its_own_loader(host: Host) -> None:
    host.qemu("7.2.22")
    firmware = emulator.place() / "usr/share/qemu" / emulator.QBOOT
    firmware.parent.mkdir(parents=True)
    firmware.touch()
    found = emulator.ready()
    assert found.argv[0] == str(emulator.place() / "usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2")
    assert str(emulator.place() / "usr/bin/qemu-system-x86_64") in found.argv
    assert found.firmware(qboot=True) == ("-bios", str(firmware))
    assert found.firmware(qboot=False) == ()


def test_nothing_is_left_of_one_that_could_not_be_brought(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken(apt.Apt):
        @classmethod
        def of(cls, _suite: str, directory: Path) -> "Broken":
            return cls(directory, ())

        def unpack_whole(self, package: str, root: Path) -> None:
            root.mkdir()
            raise NotReadyError(f"no {package}")

    monkeypatch.setattr(apt, "Apt", Broken)
    with pytest.raises(NotReadyError, match=r"no qemu-system-x86$"):
        emulator.bring()
    assert os.listdir(cache.directory()) == []
