"""What is to be guarded: the tables that name it, made Scopes, once they were found here."""

import contextlib
import os
from pathlib import Path

from memreap.config.faults import FILE, Fault, Origin
from memreap.config.merge import Entry, Merged
from memreap.config.places import Places
from memreap.guard.settings import Kind, Scope
from memreap.linux import cgroups
from memreap.linux.procfs import Procfs, printable

NOTHING = Fault(
    "",
    0,
    "",
    "nothing to guard: say --system (root), --own, --cgroup PATH or --tree PID,"
    " or name it in a file",
)
NOT_THERE = "not there: it will be guarded once it is"
USAGE_FIELDS = ("stall_max", "stall_floor", "warn", "subgroups")
MACHINE_FIELDS = ("available_min", "swap_free_min", "stall_max", "stall_floor", "warn")


def scopes(merged: Merged, where: Places) -> tuple[Scope, ...]:
    """All of them; what cannot be guarded is noted as a fault."""
    found = [
        *_system(merged, where),
        *_own(merged, where),
        *_cgroups(merged, where),
        *_trees(merged, where),
    ]
    if not found and not merged.faults:
        merged.faults.append(NOTHING)
    return tuple(found)


def _fields(entry: Entry, names: tuple[str, ...]) -> dict[str, object]:
    return {name: entry.get(name) for name in names}


def _system(merged: Merged, where: Places) -> list[Scope]:
    entry = merged.one("system")
    if not entry.get("enabled"):
        return []
    if not where.is_root:
        advice = "needs root; --own guards your own processes"
        merged.fault(entry.where("enabled"), "system.enabled", advice)
        return []
    names = (*MACHINE_FIELDS, "subgroups", "nodes")
    return [Scope(Kind.SYSTEM, "system", **_fields(entry, names))]  # type: ignore[arg-type]


def _own(merged: Merged, where: Places) -> list[Scope]:
    entry = merged.one("own")
    if not entry.get("enabled"):
        return []
    if where.is_root:
        advice = "root's own are the whole machine's; say --system"
        merged.fault(entry.where("enabled"), "own.enabled", advice)
        return []
    fields = _fields(entry, MACHINE_FIELDS)
    return [Scope(Kind.OWN, f"own:{where.uid}", uid=where.uid, **fields)]  # type: ignore[arg-type]


def _cgroups(merged: Merged, where: Places) -> list[Scope]:
    found: dict[Path, Scope] = {}
    for entry in merged.entries["cgroup"]:
        name = entry.get("path")
        if name is None:
            continue
        try:
            directory, is_there = _directory(name, entry.where("path"), where.procfs)
            if directory in found:
                raise ValueError(f"guarded already: {directory}")
        except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: a loop of links
            said = error.strerror if isinstance(error, OSError) and error.errno else None
            message = f"{said}: {name}" if said else str(error)
            merged.fault(entry.where("path"), "cgroup.path", printable(message))
            continue
        limit = entry.get("limit")
        is_size = limit is not None and limit.bytes is not None
        if not is_there:
            merged.remark(entry.where("path"), "cgroup.path", printable(f"{NOT_THERE}: {name}"))
        elif not is_size and not _is_limited(directory, where.procfs):
            message = f'{directory} has no memory limit of its own: say limit = "4G" (--limit 4G)'
            merged.fault(entry.where("limit"), "cgroup.limit", printable(message))
            continue
        found[directory] = Scope(
            Kind.CGROUP,
            f"cgroup:{_below_mount(directory, where.procfs)}",
            path=str(directory),
            limit=limit,
            **_fields(entry, USAGE_FIELDS),  # type: ignore[arg-type]
        )
    return list(found.values())


def _directory(name: str, origin: Origin, procfs: Procfs) -> tuple[Path, bool]:
    """(where it counts memory, whether it is there).

    A slice or service has a cgroup only while something runs in it: one that a file names may come
    later. On the command line it is a mistake.
    """
    try:
        return _memory_cgroup(name, procfs), True
    except FileNotFoundError:
        if origin.kind != FILE:
            raise
        return cgroups.would_be(name, procfs), False


def _memory_cgroup(name: str, procfs: Procfs) -> Path:
    """The directory that counts memory: on a hybrid host a name stands in several hierarchies."""
    memory = [root for root, kind, options in cgroups.mounts(procfs) if "memory" in options]
    directory = cgroups.find(name, procfs)
    if not _counts_memory(directory):
        for root in memory:
            with contextlib.suppress(FileNotFoundError):
                directory = cgroups.find(str(root / name.lstrip("/")), procfs)
    if not _counts_memory(directory):
        raise ValueError(f"{directory} does not count memory: no memory controller there")
    return directory


def _is_limited(directory: Path, procfs: Procfs) -> bool:
    try:
        memory = cgroups.CgroupMemory(directory)
    except OSError:
        return True  # whoever guards it will say what is wrong with it
    try:
        return memory.limit_bytes(procfs.meminfo()["MemTotal"]) is not None
    except OSError:
        return True
    finally:
        memory.close()


def _counts_memory(directory: Path) -> bool:
    try:
        cgroups.usage_file(directory)
    except FileNotFoundError:
        return False
    return True


def _below_mount(directory: Path, procfs: Procfs) -> str:
    tops = [root.resolve() for root, _, _ in cgroups.mounts(procfs)]
    top = max((top for top in tops if top in directory.parents), key=lambda top: len(top.parts))
    return f"/{directory.relative_to(top)}"


def _trees(merged: Merged, where: Places) -> list[Scope]:
    found: list[Scope] = []
    for entry in merged.entries["tree"]:
        pid, limit = entry.get("pid"), entry.get("limit")
        if pid is None:
            continue
        if not os.path.exists(f"{where.procfs.root}/{pid}"):  # noqa: PTH110
            merged.fault(entry.where("pid"), "tree.pid", f"no such process: {pid}")
        elif limit is not None:
            found.append(
                Scope(Kind.TREE, f"tree:{pid}", pid=pid, limit=limit, warn=entry.get("warn"))
            )
    return found
