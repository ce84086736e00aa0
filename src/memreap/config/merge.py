"""Documents into one: later values win, key by key; entries of ``[[tables]]`` are collected."""

import difflib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from memreap.config.document import Document
from memreap.config.faults import COMMAND_LINE, Fault, Origin, fault_at
from memreap.config.keys import KEYS_OF, TABLE, TABLES, Key, Table
from memreap.config.locate import Path
from memreap.config.places import Places

ENTRIES_MAX = 1000  # of one table; every rule is asked of every process, every cgroup looked for
NAME_CHARACTERS_MAX = 100
SUGGESTIONS_MAX = 100  # each takes a while, and a file has room for 100,000 wrong keys
SIMILARITY = 0.6


class Value(NamedTuple):
    """``raw`` as a file would say it, ``read`` as Settings hold it."""

    raw: Any
    read: Any
    origin: Origin


@dataclass(slots=True)
class Entry:
    """One table; ``origin`` is its header's."""

    origin: Origin
    values: dict[str, Value] = field(default_factory=dict)

    def get(self, name: str, absent: Any = None) -> Any:
        """A key's value as Settings hold it."""
        value = self.values.get(name)
        return absent if value is None else value.read

    def where(self, name: str) -> Origin:
        """A key's place, or that of the whole where it has none."""
        return self.values[name].origin if name in self.values else self.origin


@dataclass(slots=True)
class Merged:
    """Every table's entries: exactly one where a table stands once."""

    entries: dict[str, list[Entry]] = field(
        default_factory=lambda: {t.name: [] if t.several else [Entry(Origin())] for t in TABLES}
    )
    faults: list[Fault] = field(default_factory=list)
    remarks: list[Fault] = field(default_factory=list)  # what is worth a word, and no fault

    def one(self, table: str) -> Entry:
        """A table that stands once."""
        (entry,) = self.entries[table]
        return entry

    def remark(self, origin: Origin, path: str, message: str) -> None:
        """Note what people should know of a key that is not wrong."""
        self.remarks.append(fault_at(origin, path, message))

    def fault(self, origin: Origin, path: str, message: str) -> None:
        """Note what is wrong with a key, by the name under which it was given."""
        table, _, name = path.partition(".")
        key = KEYS_OF[table].get(name)
        option = key.option if key and origin.kind == COMMAND_LINE else ""
        self.faults.append(fault_at(origin, option or path, message))

    def add(self, document: Document) -> None:
        """Take in a document that counts more than those before it."""
        for name, raw in document.tables.items():
            table = TABLE.get(name)
            if table is None:
                self._unknown(document.origin_of((name,)), "", name, None)
            elif table.for_all or not document.for_all:
                self._add_table(table, raw, document)

    def _unknown(self, origin: Origin, prefix: str, name: str, table: Table | None) -> None:
        """A key of ``table``, or a table itself, that does not exist."""
        message = "unknown"
        if len(self.faults) < SUGGESTIONS_MAX:
            message += _unknown_key(name, table) if table else _unknown_table(name)
        self.faults.append(fault_at(origin, prefix + _cut(name), message))

    def _add_table(self, table: Table, raw: Any, document: Document) -> None:
        origin = document.origin_of((table.name,))
        if not table.several:
            if isinstance(raw, dict):
                self._fill(self.one(table.name), table, raw, document, (table.name,))
            else:
                self.fault(origin, table.name, f"stands once: say {table.header}")
            return
        if not isinstance(raw, list) or not all(isinstance(entry, dict) for entry in raw):
            self.fault(origin, table.name, f"there may be several: say {table.header}")
            return
        if len(self.entries[table.name]) + len(raw) > ENTRIES_MAX:
            self.fault(origin, table.name, f"more than {ENTRIES_MAX} of them")
            return
        entries: list[Entry] = []
        for index, fields in enumerate(raw):
            path: Path = (table.name, index)
            entry = Entry(document.origin_of(path))
            self._fill(entry, table, fields, document, path)
            entries.append(entry)
        self._collect(table, entries)

    def _fill(
        self, entry: Entry, table: Table, fields: dict[str, Any], document: Document, path: Path
    ) -> None:
        for name, raw in fields.items():
            origin = document.origin_of((*path, name))
            key = KEYS_OF[table.name].get(name)
            if key is None:
                self._unknown(origin, f"{table.name}.", name, table)
                continue
            try:
                entry.values[name] = Value(raw, key.type.read(raw), origin)
            except ValueError as error:
                self.fault(origin, key.path, key.type.refusal(raw, error))
                entry.values[name] = _refused(key, origin)

    def _collect(self, table: Table, entries: list[Entry]) -> None:
        """An entry of the same identity in an earlier file is changed, in the same one refused."""
        before = {entry.get(table.identity): entry for entry in self.entries[table.name]}
        here: set[Any] = set()
        for entry in entries:
            identity = entry.get(table.identity) if table.identity else None
            if identity is None:
                self.entries[table.name].append(entry)
            elif identity in here:
                path = f"{table.name}.{table.identity}"
                self.fault(entry.where(table.identity), path, f"twice in one file: {identity}")
            elif identity in before:
                before[identity].values |= entry.values
            else:
                self.entries[table.name].append(entry)
            here.add(identity)

    def forget_scopes(self) -> None:
        """Guard nothing that has been named so far; thresholds stay."""
        self.entries["cgroup"].clear()
        self.entries["tree"].clear()
        for table in ("system", "own"):
            self.one(table).values.pop("enabled", None)

    def complete(self, where: Places) -> None:
        """Give every key that was not named its default, and say which have none."""
        records = self.one("records").values
        for name, (path, origin) in (("database", where.database()), ("socket", where.socket())):
            if name not in records:
                self._fill_default(self.one("records"), KEYS_OF["records"][name], path, origin)
        for table, entry in self.all():
            for key in KEYS_OF[table.name].values():
                if key.name in entry.values:
                    continue
                if key.required:
                    self.fault(entry.origin, key.path, f"missing: say {key.type.say}")
                    entry.values[key.name] = _refused(key, entry.origin)
                elif key.default is not None:
                    self._fill_default(entry, key, key.default, Origin())

    def _fill_default(self, entry: Entry, key: Key, raw: Any, origin: Origin) -> None:
        """The environment's may be as wrong as a file's."""
        try:
            entry.values[key.name] = Value(raw, key.type.read(raw), origin)
        except ValueError as error:
            self.fault(origin, key.path, key.type.refusal(raw, error))

    def all(self) -> Iterator[tuple[Table, Entry]]:
        """Every entry, in the order of the tables."""
        for table in TABLES:
            for entry in self.entries[table.name]:
                yield table, entry

    def named(self) -> Iterator[tuple[str, Value]]:
        """Every value with its full name: ``guard.patience``, ``cgroup[0].path``."""
        for table in TABLES:
            for index, entry in enumerate(self.entries[table.name]):
                prefix = f"{table.name}[{index}]" if table.several else table.name
                for key in KEYS_OF[table.name]:
                    if key in entry.values:
                        yield f"{prefix}.{key}", entry.values[key]


def _refused(key: Key, origin: Origin) -> Value:
    """In the place of what was refused, so that it is not missed a second time."""
    default = None if key.default is None else key.type.read(key.default)
    return Value(key.default, default, origin)


def _cut(name: str) -> str:
    return name[:NAME_CHARACTERS_MAX]


def _unknown_table(name: str) -> str:
    homes = [TABLE[table].header for table in TABLE if name in KEYS_OF[table]]
    if homes:
        return f" here; it stands in {' or '.join(homes)}"
    return _suggestion(name, TABLE)


def _unknown_key(name: str, table: Table) -> str:
    near = _suggestion(name, KEYS_OF[table.name])
    return near or f" (known are {', '.join(KEYS_OF[table.name])})"


def _suggestion(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(_cut(name), list(known), 1, SIMILARITY)
    return f" (did you mean {near[0]}?)" if near else ""
