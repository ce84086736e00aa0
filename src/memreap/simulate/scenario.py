"""Scenarios: TOML files, the shipped ones and anyone's own; and what a seed draws from one.

1. Wherever a figure may be [LOW, HIGH], each process draws its own, evenly.
2. Everything is drawn before anything runs, in the order of the file, from one source: all
   strategies meet the same incident.
3. What is wrong with a file is one line: FILE: KEY: what.
"""

import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from math import isfinite
from pathlib import Path
from random import Random
from typing import Any

from memreap import size
from memreap.simulate.costs import PAGES
from memreap.simulate.cpus import FIFO, IDLE, NICE, NICE_MIN
from memreap.simulate.setup import Hang, Io, NodeSetup, ProcessSetup, Setup, node

MANY = 1024  # processes, threads, CPUs: more is a mistake


class ScenarioError(ValueError):
    """What is wrong with a scenario, on one line."""


@dataclass(frozen=True, slots=True)
class Range:
    """A figure that is drawn, evenly."""

    low: float
    high: float

    def draw(self, source: Random) -> float:
        """One of them. Draws once even where there is no choice, so that files stay comparable."""
        return self.low + (self.high - self.low) * source.random()


@dataclass(frozen=True, slots=True)
class Kind:
    """A key's type: how it is read, what to say otherwise, and what it is where it is missing."""

    read: Callable[[Any], Any]
    say: str
    default: Any = None
    required: bool = False


def _bytes(raw: Any) -> float:
    if isinstance(raw, str):
        return float(size.parse(raw))
    if isinstance(raw, bool) or not isinstance(raw, int) or not 0 <= raw < size.SIZE_MAX:
        raise ValueError
    return float(raw)


def _real(raw: Any) -> float:
    if isinstance(raw, bool) or not isinstance(raw, (int, float)):
        raise ValueError
    if not isfinite(raw) or not 0 <= raw < 1e6:
        raise ValueError
    return float(raw)


def _range(one: Callable[[Any], float]) -> Callable[[Any], Range]:
    def read(raw: Any) -> Range:
        if not isinstance(raw, list):
            value = one(raw)
            return Range(value, value)
        if len(raw) != 2:
            raise ValueError
        low, high = one(raw[0]), one(raw[1])
        if low > high:
            raise ValueError
        return Range(low, high)

    return read


def _integer(low: int, high: int) -> Callable[[Any], int]:
    def read(raw: Any) -> int:
        if isinstance(raw, bool) or not isinstance(raw, int) or not low <= raw <= high:
            raise ValueError
        return raw

    return read


def _text(raw: Any) -> str:
    if not isinstance(raw, str) or not raw or not raw.isprintable():
        raise ValueError
    return raw


def _flag(raw: Any) -> bool:
    if not isinstance(raw, bool):
        raise ValueError
    return raw


def _weight(raw: Any) -> float:
    if raw in ("idle", "fifo"):
        return IDLE if raw == "idle" else FIFO
    return NICE[_integer(NICE_MIN, NICE_MIN + len(NICE) - 1)(raw) - NICE_MIN]


def _of(values: Mapping[str, Any]) -> Callable[[Any], Any]:
    def read(raw: Any) -> Any:
        if not isinstance(raw, str) or raw not in values:
            raise ValueError
        return values[raw]

    return read


SIZE = 'a size such as "500M", or [LOW, HIGH]'
SECONDS = "seconds, or [LOW, HIGH]"
COUNT = f"a number from 1 to {MANY}"
IOS = {one.value: one for one in Io}
HANGS = {one.value: one for one in Hang}

TOP: dict[str, Kind] = {
    "says": Kind(_text, "one line of text", required=True),
    "cpus": Kind(_integer(1, MANY), COUNT, 2),
    "busy": Kind(_integer(0, MANY), f"a number from 0 to {MANY}", 0),
}
NODE: dict[str, Kind] = {
    "size": Kind(_bytes, 'a size such as "16G"', required=True),
}
SWAP: dict[str, Kind] = {
    "size": Kind(_bytes, 'a size such as "2G"', required=True),
    "rate": Kind(_bytes, 'bytes a second, such as "200M"', required=True),
}
PROCESS: dict[str, Kind] = {
    "name": Kind(_text, "one line of text", required=True),
    "count": Kind(_integer(1, MANY), COUNT, 1),
    "size": Kind(_range(_bytes), SIZE, required=True),
    "rate": Kind(_range(_bytes), 'bytes a second, such as "300M", or [LOW, HIGH]', Range(0, 0)),
    "until": Kind(_range(_bytes), SIZE),
    "start": Kind(_range(_real), SECONDS, Range(0, 0)),
    "stays": Kind(_range(_real), SECONDS),
    "node": Kind(_integer(0, MANY), "a node's number, from 0", 0),
    "bound": Kind(_flag, "true or false", False),
    "page": Kind(_of(PAGES), " or ".join(f'"{page}"' for page in PAGES), PAGES["4K"]),
    "threads": Kind(_integer(1, MANY), COUNT, 1),
    "sharers": Kind(_integer(0, MANY), f"a number from 0 to {MANY}", 0),
    "nice": Kind(_weight, '-20 to 19, "idle" or "fifo"', NICE[-NICE_MIN]),
    "oom_score_adj": Kind(_integer(-1000, 1000), "-1000 to 1000", 0),
    "io": Kind(_of(IOS), ", ".join(IOS), Io.NONE),
    "io_s": Kind(_range(_real), SECONDS, Range(0, 0)),
    "hangs": Kind(_of(HANGS), ", ".join(HANGS), Hang.NONE),
    "lock_s": Kind(_range(_real), SECONDS, Range(0, 0)),
}
TABLES = {"node": NODE, "process": PROCESS}


@dataclass(frozen=True, slots=True)
class Scenario:
    """As it was written."""

    name: str
    says: str
    cpus: int
    busy: int
    nodes: tuple[NodeSetup, ...]
    swap: Mapping[str, Any]
    processes: tuple[Mapping[str, Any], ...]

    def draw(self, seed: int) -> Setup:
        """One incident."""
        source = Random(seed)  # noqa: S311 - no secret: the same seed is the same incident
        drawn = [
            _process(entry, number, source)
            for entry in self.processes
            for number in range(entry["count"])
        ]
        return Setup(
            scenario=self.name,
            seed=seed,
            cpus=self.cpus,
            busy=self.busy,
            nodes=self.nodes,
            swap_bytes=int(self.swap.get("size", 0)),
            swap_bytes_s=float(self.swap.get("rate", 0)),
            processes=tuple(drawn),
        )


def _process(entry: Mapping[str, Any], number: int, source: Random) -> ProcessSetup:
    of = {key: one.draw(source) for key, one in entry.items() if isinstance(one, Range)}
    size_bytes = int(of["size"])
    until_bytes = int(of["until"]) if "until" in of else (1 << 62)
    return ProcessSetup(
        name=entry["name"] if entry["count"] == 1 else f"{entry['name']} {number + 1}",
        node=entry["node"],
        bound=entry["bound"],
        size_bytes=size_bytes,
        rate_bytes_s=of["rate"],
        until_bytes=max(size_bytes, until_bytes),
        start_s=of["start"],
        stays_s=of.get("stays"),
        page_bytes=entry["page"],
        threads=entry["threads"],
        sharers=entry["sharers"],
        weight=entry["nice"],
        oom_score_adj=entry["oom_score_adj"],
        io=entry["io"],
        io_s=of["io_s"],
        hangs=entry["hangs"],
        lock_s=of["lock_s"],
    )


def parse(text: str, file: str, name: str) -> Scenario:
    """From TOML. Raises ScenarioError."""
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ScenarioError(f"{file}: {error}") from error
    top = {key: value for key, value in raw.items() if key not in (*TABLES, "swap")}
    read = _read(top, TOP, file, "", more=(*TABLES, "swap"))
    swap = _read(_is_table(raw.get("swap"), file), SWAP, file, "swap.") if "swap" in raw else {}
    nodes = tuple(
        node(f"node{number}", int(entry["size"]))
        for number, entry in enumerate(_entries(raw, "node", file))
    )
    processes = _entries(raw, "process", file)
    scenario = Scenario(name, read["says"], read["cpus"], read["busy"], nodes, swap, processes)
    _check(scenario, file)
    return scenario


def _is_table(raw: Any, file: str) -> dict[str, Any]:
    if not isinstance(raw, dict):
        raise ScenarioError(f"{file}: swap: say [swap], a table")
    return raw


def _entries(raw: Mapping[str, Any], table: str, file: str) -> tuple[Mapping[str, Any], ...]:
    entries = raw.get(table, [])
    if not isinstance(entries, list) or not all(isinstance(one, dict) for one in entries):
        raise ScenarioError(f"{file}: {table}: say [[{table}]], a table each")
    if not entries:
        raise ScenarioError(f"{file}: {table}: missing: at least one [[{table}]]")
    return tuple(
        _read(entry, TABLES[table], file, f"{table}[{number}].")
        for number, entry in enumerate(entries)
    )


def _read(
    raw: Mapping[str, Any],
    kinds: Mapping[str, Kind],
    file: str,
    prefix: str,
    more: tuple[str, ...] = (),
) -> dict[str, Any]:
    for key in raw:
        if key not in kinds:
            known = ", ".join((*kinds, *more))
            raise ScenarioError(f"{file}: {prefix}{key}: no such key; there are {known}")
    values: dict[str, Any] = {}
    for key, kind in kinds.items():
        if key in raw:
            values[key] = _value(raw[key], kind, f"{file}: {prefix}{key}")
        elif kind.required:
            raise ScenarioError(f"{file}: {prefix}{key}: missing: say {kind.say}")
        else:
            values[key] = kind.default
    return values


def _value(raw: Any, kind: Kind, place: str) -> Any:
    try:
        return kind.read(raw)
    except (ValueError, TypeError) as error:
        raise ScenarioError(f"{place}: not {raw!r:.60}: say {kind.say}") from error


def _check(scenario: Scenario, file: str) -> None:
    """What no key says by itself."""
    held = [0.0 for _ in scenario.nodes]
    for number, entry in enumerate(scenario.processes):
        place = f"{file}: process[{number}]"
        if entry["node"] >= len(scenario.nodes):
            raise ScenarioError(f"{place}.node: there is no node {entry['node']}")
        if entry["hangs"] is not Hang.NONE and entry["threads"] < 2:
            raise ScenarioError(f"{place}.threads: one hangs, so say 2 or more")
        held[entry["node"]] += entry["size"].high * entry["count"]
    for one, bytes_held in zip(scenario.nodes, held, strict=True):
        if bytes_held > one.size_bytes - one.high_bytes:
            raise ScenarioError(
                f"{file}: process: those of {one.name} may hold {size.show(int(bytes_held))}"
                f" at the beginning, which is more than there is"
            )


def load(name: str) -> Scenario:
    """A shipped one by its name, or a file by its path. Raises ScenarioError."""
    if name in names():
        return _shipped(name)
    path = Path(name)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise ScenarioError(f"{name}: {why}; shipped scenarios are {', '.join(names())}") from error
    return parse(text, name, path.stem)


@cache
def names() -> tuple[str, ...]:
    """Of all shipped ones, in the order of the alphabet."""
    found = files("memreap.simulate").joinpath("scenarios").iterdir()
    return tuple(sorted(one.name[:-5] for one in found if one.name.endswith(".toml")))


@cache
def _shipped(name: str) -> Scenario:
    file = f"{name}.toml"
    text = files("memreap.simulate").joinpath("scenarios", file).read_text(encoding="utf-8")
    return parse(text, file, name)
