"""Kernel modules as files: what each depends on, and its plain bytes. Nothing is loaded here."""

import lzma
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

from vmtest.cache import Kernel

# What guests may want; a kernel that has one built in has no file for it.
WANTED = ("fuse", "zram", "lzo", "lzo-rle", "lz4", "zstd", "loop", "virtio_pci", "virtio_blk")
_DEPENDS = re.compile(rb"\0depends=([^\0]*)\0")


def plain(path: Path) -> bytes:
    """The module itself, whatever it is packed with."""
    if path.suffix == ".xz":
        return lzma.decompress(path.read_bytes())
    if path.suffix == ".zst":
        return subprocess.run(["zstd", "-dcq", str(path)], capture_output=True, check=True).stdout
    return path.read_bytes()


def collect(
    kernel: Kernel, wanted: Sequence[str] = WANTED
) -> tuple[dict[str, bytes], dict[str, list[str]]]:
    """Every module wanted and what it needs; for each, what to load in which order.

    The order is empty for one that is built in; one that this kernel lacks is left out.
    """
    files: dict[str, bytes] = {}
    orders: dict[str, list[str]] = {}

    def visit(name: str) -> list[str]:
        if name in orders:
            return orders[name]
        try:
            path = kernel.module(name)
        except FileNotFoundError:
            if kernel.has_built_in(name):
                orders[name] = []
            return []
        files[name] = plain(path)
        found = _DEPENDS.search(files[name])
        needs = found[1].decode().split(",") if found and found[1] else []
        before = [each for need in needs for each in visit(need)]
        orders[name] = [*dict.fromkeys(before), name]
        return orders[name]

    for name in wanted:
        visit(name)
    return files, orders
