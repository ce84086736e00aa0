"""What a guard was told to do, once every default, file and option is settled.

Only plain frozen values live here, and their way through JSON: the core is started with them, and
given new ones on a reload. Where each value came from is config/'s affair.
"""

from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple

from memreap.decide.policy import Policy, Rule, Together, Verdict


class Kind(StrEnum):
    """What runs out."""

    SYSTEM = "system"
    CGROUP = "cgroup"
    NODE = "node"
    TREE = "tree"
    OWN = "own"


class Amount(NamedTuple):
    """So many bytes, or a share of a whole that is known only where it is measured."""

    bytes: int | None = None
    share: float | None = None

    def of(self, whole_bytes: int) -> int:
        """In bytes."""
        return self.bytes if self.bytes is not None else int((self.share or 0.0) * whole_bytes)


AVAILABLE_MIN = Amount(share=0.05)
SWAP_FREE_MIN = Amount(share=0.10)


@dataclass(frozen=True, slots=True)
class Scope:
    """One thing to guard, and where its line is.

    ``limit``: of a cgroup (a share of its own limit), a tree (bytes), a NUMA node (a share).
    ``available_min`` and ``swap_free_min``: of the system, and of it for one user's processes;
    it is over the line when both fall below. ``stall_max``: share of the last 10 s in which
    everything stood still for memory (PSI, full); over it, the domain is pressed although its
    counters are not, if it uses at least ``stall_floor`` of its limit; 0 turns that off.
    """

    kind: Kind
    name: str  # "system", "cgroup:/build.slice", "tree:4711", "own:1000"
    path: str = ""  # of a cgroup: its directory
    pid: int = 0  # of a tree: its root
    uid: int = -1  # of OWN: whose processes
    limit: Amount | None = None
    available_min: Amount = AVAILABLE_MIN
    swap_free_min: Amount = SWAP_FREE_MIN
    stall_max: float = 0.40
    stall_floor: float = 0.80
    warn: float = 0.90  # share of the way to the line at which it warns; 0: never
    subgroups: bool = True  # of a cgroup or the system: cgroups below with limits of their own
    nodes: bool = True  # of the system: each NUMA node as a domain of its own


@dataclass(frozen=True, slots=True)
class Hook:
    """A command to run at a turn of an incident; the record comes as JSON on its stdin."""

    on: str  # warned, chosen, released, skipped, helpless, relieved
    argv: tuple[str, ...]
    timeout_s: float = 10.0


@dataclass(frozen=True, slots=True)
class Records:
    """Where the scribe writes; an empty string is nowhere."""

    database: str = ""  # SQLite
    keep: int = 1000  # incidents
    # Beside them, what the kernel's tracepoints say of each victim. None: where it can be had.
    trace: bool | None = None
    journal: bool = True  # native journald fields, where there is a journal
    metrics_file: str = ""  # Prometheus text, for node_exporter's textfile collector
    metrics_listen: str = ""  # "127.0.0.1:9469"
    notify: bool = False  # desktop notification to the victim's user, after the kill
    bus_signal: bool = False  # org.memreap.Guard1.Killed on the system bus, after the kill
    socket: str = ""  # where `memreap status` asks
    hooks: tuple[Hook, ...] = ()

    @property
    def wants_gauges(self) -> bool:
        """Whether somebody is to be told how things are, though nothing happens."""
        return bool(self.metrics_file or self.metrics_listen)


@dataclass(frozen=True, slots=True)
class Settings:
    """All of it."""

    scopes: tuple[Scope, ...] = ()
    policy: Policy = field(default_factory=Policy)
    records: Records = field(default_factory=Records)
    patience_s: float = 2.0
    term_s: float | None = None  # SIGTERM first, SIGKILL after so long
    dry_run: bool = False
    quiet: bool = False  # tell stderr only what went wrong

    def as_message(self) -> dict[str, Any]:
        """As JSON can carry it."""
        return asdict(self)

    @classmethod
    def from_message(cls, message: dict[str, Any]) -> "Settings":
        """The inverse of ``as_message``."""
        fields = dict(message)
        records = dict(fields.pop("records"))
        hooks = tuple(_hook(h) for h in records.pop("hooks"))
        return cls(
            scopes=tuple(_scope(s) for s in fields.pop("scopes")),
            policy=_policy(fields.pop("policy")),
            records=Records(**records, hooks=hooks),
            **fields,
        )


def _hook(message: dict[str, Any]) -> Hook:
    return Hook(**{**message, "argv": tuple(message["argv"])})


def _scope(message: dict[str, Any]) -> Scope:
    amounts = ("limit", "available_min", "swap_free_min")
    made = {name: Amount(*message[name]) for name in amounts if message[name] is not None}
    return Scope(**{**message, **made, "kind": Kind(message["kind"])})


def _policy(message: dict[str, Any]) -> Policy:
    rules = tuple(
        Rule(**{**r, "verdict": Verdict(r["verdict"]), "by": Together(r["by"])})
        for r in message["rules"]
    )
    return Policy(**{**message, "rules": rules})
