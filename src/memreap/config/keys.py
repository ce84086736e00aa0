"""Every key there is: one table from which files are checked, written out and explained."""

from dataclasses import dataclass
from typing import Any

from memreap.config import values
from memreap.config.values import Type

HOOK_TURNS = ("warned", "chosen", "released", "skipped", "helpless", "relieved")
TOGETHER_BY = ("cgroup", "session", "process-group")
RULES = ("protect", "prefer", "avoid", "together")


@dataclass(frozen=True, slots=True)
class Table:
    """``[name]``, or ``[[name]]`` where there may be several."""

    name: str
    doc: str
    several: bool = False
    identity: str = ""  # the key that tells two entries apart; a later file changes the earlier one
    for_all: bool = False  # in the system's files it is meant for the guards of users too

    @property
    def header(self) -> str:
        """As it stands in a file."""
        return f"[[{self.name}]]" if self.several else f"[{self.name}]"


@dataclass(frozen=True, slots=True)
class Key:
    """``default`` is as a file would say it; None: there is none."""

    path: str  # "guard.patience"
    type: Type
    default: Any
    doc: str
    option: str = ""  # of `memreap guard`, which says the same
    required: bool = False

    @property
    def table(self) -> str:
        """The part before the dot."""
        return self.path.partition(".")[0]

    @property
    def name(self) -> str:
        """The part after the dot."""
        return self.path.partition(".")[2]


TABLES: tuple[Table, ...] = (
    Table("guard", "How it acts.", for_all=True),
    Table("system", "The whole machine; needs root."),
    Table("own", "Your own processes, without root, by what the machine has left."),
    Table("cgroup", "A cgroup, v1 or v2, with all below it.", several=True, identity="path"),
    Table("tree", "A process and its descendants.", several=True, identity="pid"),
    Table("protect", "Never killed.", several=True, for_all=True),
    Table(
        "prefer",
        "Killed before all others, if it holds enough to help.",
        several=True,
        for_all=True,
    ),
    Table("avoid", "Killed only where nobody else would help.", several=True, for_all=True),
    Table("together", "Those that die as one.", several=True, for_all=True),
    Table("policy", "Whose other wishes are respected.", for_all=True),
    Table("records", "Where incidents are told. An empty path is nowhere."),
    Table("hook", "A command to run at a turn of an incident.", several=True),
)


def _thresholds(table: str) -> tuple[Key, ...]:
    return (
        Key(
            f"{table}.available_min",
            values.AMOUNT,
            "5%",
            "Pressed when less than this is available (MemAvailable; a share is of MemTotal) and"
            " swap is short too.",
        ),
        Key(
            f"{table}.swap_free_min",
            values.AMOUNT,
            "10%",
            "Swap is short when less than this is free (SwapFree; a share is of SwapTotal);"
            " where there is no swap it always is.",
        ),
        *_stalls(table),
    )


def _stalls(table: str) -> tuple[Key, ...]:
    return (
        Key(
            f"{table}.stall_max",
            values.SHARE,
            "40%",
            "Pressed also when everything stood still for memory (PSI, full) for more than this"
            " share of the last 10 s; 0 turns that off.",
        ),
        Key(
            f"{table}.stall_floor",
            values.SHARE,
            "80%",
            "A stall counts only when this share of the limit is in use; else others caused it.",
        ),
        _warn(table),
    )


def _warn(table: str) -> Key:
    return Key(
        f"{table}.warn",
        values.SHARE,
        "90%",
        "Share of the way to the line at which it warns; 0: never.",
    )


def _rule(table: str) -> tuple[Key, ...]:
    return (
        Key(
            f"{table}.name",
            values.PATTERN,
            None,
            "The name (comm), or the last part of the exe or of the first argument.",
        ),
        Key(
            f"{table}.command",
            values.REGEX,
            None,
            "A regular expression, searched for in the whole command line.",
        ),
        Key(f"{table}.exe", values.PATTERN, None, "The path of the program that runs."),
        Key(f"{table}.cgroup", values.PATTERN, None, "The cgroup, as /proc/PID/cgroup has it."),
        Key(f"{table}.user", values.USER, None, "The user, by name or number."),
        Key(
            f"{table}.unit",
            values.UNIT,
            None,
            "The systemd unit: the innermost .service or .scope of the cgroup.",
        ),
    )


KEYS: tuple[Key, ...] = (
    Key(
        "guard.patience",
        values.DURATION_NOT_0,
        "2s",
        "How long a victim may make no progress before it is passed over and the next is chosen.",
        "--patience",
    ),
    Key(
        "guard.term_first",
        values.DURATION,
        "0s",
        "SIGTERM, and SIGKILL only those that have not left by then; 0: SIGKILL at once.",
        "--term-first",
    ),
    Key(
        "guard.dry_run", values.FLAG, False, "Say who would be killed; signal nobody.", "--dry-run"
    ),
    Key("guard.quiet", values.FLAG, False, "Tell stderr only what went wrong.", "--quiet"),
    Key("system.enabled", values.FLAG, False, "Guard the whole machine.", "--system"),
    *_thresholds("system"),
    Key(
        "system.subgroups",
        values.FLAG,
        True,
        "Also guard each cgroup that has a memory limit of its own.",
    ),
    Key("system.nodes", values.FLAG, True, "Also guard each NUMA node, where there are several."),
    Key("own.enabled", values.FLAG, False, "Guard your own processes.", "--own"),
    *_thresholds("own"),
    Key(
        "cgroup.path",
        values.CGROUP,
        None,
        "The cgroup: a directory, or a path below the mount as /proc/PID/cgroup names it.",
        "--cgroup",
        required=True,
    ),
    Key(
        "cgroup.limit",
        values.AMOUNT_NOT_0,
        "95%",
        "Pressed above this; a share is of the cgroup's own limit.",
        "--limit",
    ),
    *_stalls("cgroup"),
    Key(
        "cgroup.subgroups",
        values.FLAG,
        True,
        "Also guard each cgroup below that has a limit of its own.",
    ),
    Key("tree.pid", values.PID, None, "The root of the tree.", "--tree", required=True),
    Key("tree.limit", values.SIZE, None, "Pressed above this.", "--limit", required=True),
    _warn("tree"),
    *_rule("protect"),
    *_rule("prefer"),
    *_rule("avoid"),
    *_rule("together"),
    Key(
        "together.by",
        values.choice(*TOGETHER_BY),
        None,
        "What those who match share with the ones that die with them.",
        required=True,
    ),
    Key(
        "policy.oom_group",
        values.FLAG,
        True,
        "Respect memory.oom.group: the cgroup dies as one.",
    ),
    Key(
        "policy.crowd",
        values.FLAG,
        True,
        "Twelve or more of one name, user and cgroup that are younger than 10 s die as one.",
    ),
    Key(
        "policy.oomd_preference",
        values.FLAG,
        True,
        "Respect ManagedOOMPreference= (user.oomd_avoid, user.oomd_omit).",
    ),
    Key(
        "policy.defaults",
        values.FLAG,
        True,
        "Also protect, or avoid, what a machine or a session cannot go on without (systemd, sshd,"
        " a compositor).",
    ),
    Key(
        "records.database",
        values.PATH,
        None,
        "SQLite file of all incidents; by default /var/lib/memreap/incidents.db,"
        " for a user ~/.local/state/memreap/incidents.db.",
        "--database",
    ),
    Key("records.keep", values.COUNT, 1000, "How many incidents it keeps."),
    Key(
        "records.trace",
        values.FLAG,
        None,
        "Beside each victim, what the kernel's tracepoints say of its end; by default where tracefs"
        " can be had, without a word where it cannot.",
    ),
    Key("records.journal", values.FLAG, True, "Write to the journal, where there is one."),
    Key(
        "records.metrics_file",
        values.PATH,
        "",
        "Prometheus text file, for node_exporter's textfile collector (needs memreap[metrics]).",
    ),
    Key(
        "records.metrics_listen",
        values.LISTEN,
        "",
        "Serve Prometheus metrics at this address (needs memreap[metrics]).",
    ),
    Key(
        "records.notify",
        values.FLAG,
        False,
        "Desktop notification to the victim's user, after the kill (needs memreap[dbus]).",
    ),
    Key(
        "records.bus_signal",
        values.FLAG,
        False,
        "Signal org.memreap.Guard1.Killed on the system bus, after the kill (needs memreap[dbus]).",
    ),
    Key(
        "records.socket",
        values.SOCKET,
        None,
        "Where `memreap status` asks; by default /run/memreap/guard.sock,"
        " for a user $XDG_RUNTIME_DIR/memreap/guard.sock.",
        "--socket",
    ),
    Key("hook.on", values.choice(*HOOK_TURNS), None, "At which turn.", required=True),
    Key(
        "hook.argv",
        values.ARGV,
        None,
        "Program and arguments, no shell; the turn comes as JSON on its stdin.",
        required=True,
    ),
    Key("hook.timeout", values.DURATION_NOT_0, "10s", "Killed when it takes longer."),
)

TABLE = {table.name: table for table in TABLES}
KEYS_OF = {table.name: {k.name: k for k in KEYS if k.table == table.name} for table in TABLES}
