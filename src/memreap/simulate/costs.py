"""What each step costs, and how long each wait lasts; on which machine that was found.

1. A step's cost is seconds on a CPU, by the name of its operation; one that has none costs
   ``step_s``. What is done to pages costs so much for each real page, small or huge.
2. A wait is of the clock, not of a CPU: timers, sleeps, latencies.
3. All of it stands in a TOML file, with machine and kernel; ``calibrated.toml`` is the default.
"""

import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cache
from importlib.resources import files
from typing import Any

SMALL_BYTES = 4 << 10
HUGE_BYTES = 2 << 20
PAGES: dict[str, int] = {"4K": SMALL_BYTES, "2M": HUGE_BYTES}


class CostsError(ValueError):
    """A file of costs that is none: ``FILE: KEY: what``."""


@dataclass(frozen=True, slots=True)
class PageCosts:
    """Seconds of CPU for each page of one size."""

    zap_s: float  # out of its page table: zap_pte_range
    free_s: float  # back to the allocator: tlb_flush_mmu
    tables_s: float  # its share of free_pgtables

    @property
    def all_s(self) -> float:
        """From mapped to free, by one hand."""
        return self.zap_s + self.free_s + self.tables_s


@dataclass(frozen=True, slots=True)
class Costs:
    """Everything that takes time."""

    machine: str
    kernel: str
    source: str  # where the figures are from, in words
    small: PageCosts
    huge: PageCosts
    together: float  # so much slower is each of two hands that empty one address space at once
    step_s: float  # a step that has no figure of its own
    exit_s: float  # what a thread does beside its memory, from its SIGKILL to its end
    scan_s: float  # the killer's look at one process
    wakeup_s: float  # from being woken to running, with an idle CPU
    start_s: float  # of an exit, before its small pages come at their pace
    jiffy_s: float  # the shortest sleep: an allocator's, between two tries
    killer_sleep_s: float  # of the killer with oom_lock held, before 4.19
    reaper_delay_s: float  # OOM_REAPER_DELAY, since 5.18
    reap_retry_s: float  # between two attempts of the reaper
    free_timeout_s: float  # of rientjes-2018
    decide_s: float  # of a daemon, from the reading to the SIGKILL
    reading_s: float  # of a daemon, between two readings
    steps: Mapping[str, float] = field(default_factory=dict)  # by the operation's name

    def page(self, page_bytes: int) -> PageCosts:
        """Of pages of a size."""
        return self.huge if page_bytes >= HUGE_BYTES else self.small

    def step(self, name: str) -> float:
        """Seconds of CPU of an operation, its pages apart."""
        return self.steps.get(name, self.step_s)


WORDS = ("machine", "kernel", "source")
TABLES = ("small", "huge")


def dumps(costs: Costs) -> str:
    """As TOML."""
    lines = [f"{name} = {json.dumps(getattr(costs, name))}" for name in WORDS]
    for one in fields(Costs):
        if one.name not in (*WORDS, *TABLES, "steps"):
            lines.append(f"{one.name} = {getattr(costs, one.name)!r}")
    for table in TABLES:
        lines += ["", f"[{table}]  # seconds of CPU a page"]
        page = getattr(costs, table)
        lines += [f"{one.name} = {getattr(page, one.name)!r}" for one in fields(PageCosts)]
    lines += ["", "[steps]  # seconds of CPU an operation"]
    lines += [f"{name} = {value!r}" for name, value in sorted(costs.steps.items())]
    return "\n".join(lines) + "\n"


def loads(text: str, name: str = "costs") -> Costs:
    """From TOML. Raises CostsError."""
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise CostsError(f"{name}: {error}") from error
    known = {one.name for one in fields(Costs)}
    _only(raw, known, name)
    values: dict[str, Any] = {}
    for key in sorted(known):
        if key in WORDS:
            values[key] = _word(raw, key, name)
        elif key in TABLES:
            values[key] = _page(raw, key, name)
        elif key == "steps":
            steps = _table(raw, key, name)
            values[key] = {one: _number(steps, one, f"{name}: {key}") for one in steps}
        else:
            values[key] = _number(raw, key, name)
    if values["together"] < 1:
        raise CostsError(f"{name}: together: two hands are no slower than one: say 1 or more")
    return Costs(**values)


def load(path: str) -> Costs:
    """From a file. Raises CostsError."""
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read()
    except (OSError, UnicodeDecodeError) as error:
        raise CostsError(f"{path}: {getattr(error, 'strerror', None) or error}") from error
    return loads(text, path)


@cache
def calibrated() -> Costs:
    """Those that come with memreap."""
    name = "calibrated.toml"
    return loads(files("memreap.simulate").joinpath(name).read_text(encoding="utf-8"), name)


def with_steps(costs: Costs, **steps: float) -> Costs:
    """The same, and other figures for some operations."""
    return replace(costs, steps={**costs.steps, **steps})


def _only(raw: Mapping[str, Any], known: set[str], name: str) -> None:
    for key in raw:
        if key not in known:
            raise CostsError(f"{name}: {key}: no such key; there are {', '.join(sorted(known))}")


def _word(raw: Mapping[str, Any], key: str, name: str) -> str:
    value = raw.get(key)
    if not isinstance(value, str):
        raise CostsError(f"{name}: {key}: missing, or no text")
    return value


def _table(raw: Mapping[str, Any], key: str, name: str) -> dict[str, Any]:
    value = raw.get(key)
    if not isinstance(value, dict):
        raise CostsError(f"{name}: {key}: missing, or no table")
    return value


def _number(raw: Mapping[str, Any], key: str, name: str) -> float:
    value = raw.get(key)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1e9:
        raise CostsError(f"{name}: {key}: missing, or no number from 0 on")
    return float(value)


def _page(raw: Mapping[str, Any], key: str, name: str) -> PageCosts:
    table = _table(raw, key, name)
    known = [one.name for one in fields(PageCosts)]
    _only(table, set(known), f"{name}: {key}")
    return PageCosts(**{one: _number(table, one, f"{name}: {key}") for one in known})
