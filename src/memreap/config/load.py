"""From files and the command line to Settings, with every fault there is."""

from dataclasses import dataclass

from memreap.config import build, document
from memreap.config.document import Document
from memreap.config.faults import Fault, Origin
from memreap.config.merge import Merged
from memreap.config.options import Options
from memreap.config.places import Places, UnreadableError
from memreap.config.scopes import NOTHING
from memreap.guard.settings import Records, Settings


@dataclass(frozen=True, slots=True)
class Loaded:
    """What is in force. ``settings`` are to be used only where there are no faults."""

    settings: Settings
    merged: Merged
    files: tuple[str, ...]  # read, in the order in which they count
    faults: tuple[Fault, ...]
    remarks: tuple[Fault, ...] = ()  # no fault, and worth a word

    @property
    def origins(self) -> dict[str, Origin]:
        """Where each value came from: ``guard.patience``, ``cgroup[0].path``."""
        return {name: value.origin for name, value in self.merged.named()}


def load(options: Options, where: Places) -> Loaded:
    """Everything at once; never an exception for what somebody wrote."""
    merged = Merged()
    files: list[str] = []
    for file, for_all in _files(options, where, merged.faults):
        read = _read(file, for_all, where)
        if isinstance(read, Fault):
            merged.faults.append(read)
        elif read is not None:
            files.append(file)
            merged.add(read)
    if options.has_scopes:
        merged.forget_scopes()
    if options.limit is not None and not (options.cgroups or options.trees):
        merged.faults.append(Fault("command line", 0, "--limit", "needs --cgroup or --tree"))
    merged.add(document.of_options(options))
    merged.complete(where)
    settings = build.settings(merged, where)
    return Loaded(
        settings, merged, tuple(files), _in_order(merged.faults), _in_order(merged.remarks)
    )


def records(where: Places | None = None) -> Records:
    """What a guard of this user keeps, and where; whatever else is wrong with its files."""
    return load(Options(), where or Places()).settings.records


def _in_order(faults: list[Fault]) -> tuple[Fault, ...]:
    """Each once, file by file, from the first line to the last."""
    first: dict[str, int] = {}
    for index, fault in enumerate(faults):
        first.setdefault(fault.file, index)
    return tuple(dict.fromkeys(sorted(faults, key=lambda f: (first[f.file], f.line))))


def without_scopes(faults: tuple[Fault, ...]) -> tuple[Fault, ...]:
    """The faults that are left where nothing need be guarded."""
    return tuple(fault for fault in faults if fault != NOTHING)


def _files(options: Options, where: Places, faults: list[Fault]) -> list[tuple[str, bool]]:
    """(path, whether only what is meant for all counts)."""
    if options.config is not None:
        return [(options.config, False)]
    found = [(file, not where.is_root) for file in where.system_files(faults)]
    if not where.is_root:
        found += [(file, False) for file in where.user_files(faults)]
    return found


def _read(file: str, for_all: bool, where: Places) -> Document | Fault | None:
    try:
        raw = where.read(file)
    except UnreadableError as error:
        return Fault(file, 0, "", str(error))
    return None if raw is None else document.parse(raw, file, for_all)
