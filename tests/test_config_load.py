"""Files and options in, settings and faults out."""

import os
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from memreap.config.command import check
from memreap.config.faults import Origin
from memreap.config.keys import KEYS, TABLES
from memreap.config.load import Loaded, load
from memreap.config.options import Options
from memreap.config.places import Places
from memreap.config.scopes import NOTHING
from memreap.decide.policy import Policy, Rule, Together, Verdict
from memreap.guard.settings import Amount, Hook, Kind, Records, Scope, Settings
from memreap.linux.procfs import Procfs

ETC, RUN, LOCAL, LIB = (
    "etc/memreap",
    "run/memreap",
    "usr/local/lib/memreap",
    "usr/lib/memreap",
)
USER = "home/ada/.config/memreap"
GUARDED = "[system]\nenabled = true\n"


class Machine:
    """A tree of configuration files, cgroups and processes."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.cgroups = root / "sys/fs/cgroup"
        proc = root / "proc"
        (proc / "self").mkdir(parents=True)
        (proc / "4711").mkdir()
        (proc / "self/mounts").write_text(f"cgroup2 {self.cgroups} cgroup2 rw 0 0\n")
        (self.cgroups).mkdir(parents=True)
        (self.cgroups / "cgroup.procs").touch()
        self.cgroup("build.slice")
        self.as_root = Places(
            uid=0,
            environ={},
            root=str(root),
            procfs=Procfs(str(proc)),
            trusted=(0, os.geteuid()),
        )
        self.as_ada = replace(
            self.as_root,
            uid=1000,
            environ={"HOME": "/home/ada", "XDG_RUNTIME_DIR": "/run/user/1000"},
        )

    def cgroup(self, name: str, usage: str = "memory.current") -> Path:
        directory = self.cgroups / name
        directory.mkdir(parents=True)
        (directory / "cgroup.procs").touch()
        (directory / usage).write_text("0\n")
        return directory

    def write(self, path: str, text: str | bytes, mode: int = 0o644) -> str:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(text.encode() if isinstance(text, str) else text)
        file.chmod(mode)
        return str(file)

    def main(self, text: str | bytes, **options: Any) -> Loaded:
        self.write(f"{ETC}/memreap.toml", text)
        return load(Options(**options), self.as_root)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def said(loaded: Loaded, machine: Machine) -> list[str]:
    return [str(fault).replace(str(machine.root), "") for fault in loaded.faults]


# -- Where files lie ------------------------------------------------------------------------------


def test_the_first_main_file_counts_and_every_drop_in_by_name(machine: Machine) -> None:
    machine.write(f"{LIB}/memreap.toml", "[records]\nkeep = 1\n")
    machine.write(f"{LOCAL}/memreap.toml", "[records]\nkeep = 2\n")
    machine.write(f"{RUN}/memreap.toml", GUARDED + "[guard]\npatience = 4\n")
    machine.write(f"{LIB}/memreap.toml.d/10-a.toml", "[guard]\nquiet = true\npatience = 10\n")
    machine.write(f"{ETC}/memreap.toml.d/20-b.toml", "[guard]\npatience = 20\n")
    machine.write(f"{LIB}/memreap.toml.d/30-c.toml", "[guard]\npatience = 30\n")
    machine.write(f"{RUN}/memreap.toml.d/30-c.toml", "[guard]\npatience = 31\n")
    machine.write(f"{ETC}/memreap.toml.d/40.conf", "no TOML")
    machine.write(f"{ETC}/memreap.toml.d/.hidden.toml", "no TOML")
    loaded = load(Options(), machine.as_root)
    assert not loaded.faults
    assert loaded.settings == Settings(
        scopes=(Scope(Kind.SYSTEM, "system"),),
        records=Records(database="/var/lib/memreap/incidents.db", socket="/run/memreap/guard.sock"),
        patience_s=31.0,
        quiet=True,
    )
    root = f"{machine.root}"
    files = (
        f"{root}/{RUN}/memreap.toml",
        f"{root}/{LIB}/memreap.toml.d/10-a.toml",
        f"{root}/{ETC}/memreap.toml.d/20-b.toml",
        f"{root}/{RUN}/memreap.toml.d/30-c.toml",
    )
    assert loaded.files == files
    assert loaded.origins["guard.patience"] == Origin("file", files[3], 2)
    assert loaded.origins["guard.quiet"] == Origin("file", files[1], 2)
    assert loaded.origins["records.keep"] == Origin("default")


def test_dev_null_hides_a_file(machine: Machine) -> None:
    machine.write(f"{LIB}/memreap.toml", "[guard]\nquiet = true\n")
    machine.write(f"{LIB}/memreap.toml.d/a.toml", "[guard]\ndry_run = true\n")
    for name in (f"{ETC}/memreap.toml", f"{ETC}/memreap.toml.d/a.toml"):
        (machine.root / name).parent.mkdir(parents=True, exist_ok=True)
        (machine.root / name).symlink_to("/dev/null")
    loaded = load(Options(system=True), machine.as_root)
    assert not loaded.faults
    assert (loaded.settings.quiet, loaded.settings.dry_run, loaded.files) == (False, False, ())


def test_a_user_takes_from_the_system_what_is_meant_for_all(machine: Machine) -> None:
    machine.write(
        f"{ETC}/memreap.toml",
        GUARDED
        + "[guard]\npatience = 5\nquiet = true\n[records]\ndatabase = '/var/x'\n"
        + "[[protect]]\nname = 'sshd'\n[[hook]]\non = 'nonsense'\n",
    )
    machine.write(f"{USER}/memreap.toml", "[own]\nenabled = true\n[[protect]]\nname = 'emacs'\n")
    machine.write(f"{USER}/memreap.toml.d/1.toml", "[guard]\npatience = 6\n")
    loaded = load(Options(), machine.as_ada)
    assert not loaded.faults
    assert loaded.settings == Settings(
        scopes=(Scope(Kind.OWN, "own:1000", uid=1000),),
        policy=Policy(rules=(Rule(Verdict.PROTECT, "sshd"), Rule(Verdict.PROTECT, "emacs"))),
        records=Records(
            database="/home/ada/.local/state/memreap/incidents.db",
            socket="/run/user/1000/memreap/guard.sock",
        ),
        patience_s=6.0,
        quiet=True,
    )


def test_xdg_and_systemd_say_where(machine: Machine) -> None:
    machine.write("cfg/memreap/memreap.toml", "[own]\nenabled = true\n")
    ada = replace(
        machine.as_ada,
        environ={"XDG_CONFIG_HOME": "/cfg", "XDG_STATE_HOME": "/st/", "XDG_RUNTIME_DIR": "no"},
    )
    records = load(Options(), ada).settings.records
    assert (records.database, records.socket) == ("/st/memreap/incidents.db", "")
    unit = replace(
        machine.as_root,
        environ={"STATE_DIRECTORY": "/var/lib/a:/var/lib/b", "RUNTIME_DIRECTORY": "/run/a"},
    )
    loaded = load(Options(system=True), unit)
    records = loaded.settings.records
    assert (records.database, records.socket) == ("/var/lib/a/incidents.db", "/run/a/guard.sock")
    assert loaded.origins["records.socket"] == Origin("environment")
    long = replace(machine.as_root, environ={"RUNTIME_DIRECTORY": "/" + "x" * 200})
    assert ["107 bytes" in str(f) for f in load(Options(system=True), long).faults] == [True]
    homeless = replace(machine.as_ada, uid=(1 << 32) - 2, environ={})
    records = load(Options(own=True), homeless).settings.records
    assert (records.database, records.socket) == ("", "")


def test_only_the_file_that_was_named(machine: Machine) -> None:
    machine.write(f"{ETC}/memreap.toml", "[guard]\nquiet = true\n")
    file = machine.write("x.toml", GUARDED)
    loaded = load(Options(config=file), machine.as_root)
    assert (loaded.files, loaded.settings.quiet, loaded.faults) == ((file,), False, ())
    loaded = load(Options(config=f"{file}.no", system=True), machine.as_root)
    assert said(loaded, machine) == ["/x.toml.no: cannot be read: No such file or directory"]
    loaded = load(Options(config="a\0b", system=True), machine.as_root)
    assert said(loaded, machine) == ["a\\x00b: cannot be read: embedded null byte"]


# -- Files that are not taken ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "root_says", "ada_says"),
    [
        (0o666, "others may write it (mode 666)", "others may write it (mode 666)"),
        (0o664, "others may write it (mode 664)", ""),
        (0o600, "", ""),
    ],
)
def test_who_may_write(machine: Machine, mode: int, root_says: str, ada_says: str) -> None:
    file = machine.write("x.toml", "", mode)
    for where, says in ((machine.as_root, root_says), (machine.as_ada, ada_says)):
        options = Options(config=file, system=where.is_root, own=not where.is_root)
        loaded = load(options, where)
        expected = [f"/x.toml: not trusted: {says}"] if says else []
        assert said(loaded, machine) == expected


def test_whose_it_is(machine: Machine) -> None:
    file = machine.write("x.toml", "")
    uid = os.geteuid()
    other = replace(machine.as_root, uid=0, trusted=())
    if uid:
        loaded = load(Options(config=file, system=True), other)
        whose = f"belongs to uid {uid}, not to root"
    else:
        os.chown(file, 1234, 1234)
        loaded = load(Options(config=file, system=True), other)
        whose = "belongs to uid 1234, not to root"
    assert said(loaded, machine) == [f"/x.toml: not trusted: {whose}"]
    mine = replace(machine.as_ada, uid=uid or 1234, trusted=())
    assert not [f for f in load(Options(config=file), mine).faults if f.file == file]


def test_what_is_no_file(machine: Machine) -> None:
    directory = machine.root / ETC / "memreap.toml.d"
    directory.mkdir(parents=True)
    os.mkfifo(directory / "a.toml")
    (directory / "b.toml").mkdir()
    (directory / "c.toml").symlink_to("nowhere")
    (directory / "d.toml").symlink_to("d.toml")
    (directory / "e\n.toml").write_bytes(b"#" * (10 << 20))
    (directory / "f.toml").symlink_to("/dev/zero")
    (directory / "e\n.toml").chmod(0o644)
    machine.write("run/memreap/memreap.toml.d", "a file")
    loaded = load(Options(system=True), machine.as_root)
    here = "/etc/memreap/memreap.toml.d"
    assert said(loaded, machine) == [
        "/run/memreap/memreap.toml.d: cannot be read: Not a directory",
        f"{here}/a.toml: not a regular file",
        f"{here}/b.toml: not a regular file",
        f"{here}/c.toml: cannot be read: No such file or directory",
        f"{here}/d.toml: cannot be read: Too many levels of symbolic links",
        f"{here}/e\\n.toml: larger than 1 MiB",
        f"{here}/f.toml: not a regular file",
    ]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b"a = 1\nb = \xff\n", ":2: not UTF-8"),
        (
            "[guard]\npatience 3\n",
            ":2: not TOML: Expected '=' after a key in a key/value pair (column 10)",
        ),
        (
            "[guard",
            ":1: not TOML: Expected ']' at the end of a table declaration at the end of the file",
        ),
        ("[guard]\n[guard]\n", ":2: not TOML: Cannot declare"),
        ("x = " + "[" * 200_000, ": not TOML: nested too deeply"),
        ("x = " + "{a=" * 100_000, ": not TOML: nested too deeply"),
        ("x = " + "9" * 10_000, ": not TOML: "),
        ("\n" + "a." * 400_000 + "a = 1", ":2: a key of more than 32 parts"),
        ("\n" + '"a" . ' * 100_000 + "a = 1", ":2: a key of more than 32 parts"),
        ("x" * 1_000_000, ":1: not TOML"),
        ('"' * 1_000_001, ":1: not TOML"),
        ("a\n" * 400_000, ":1: not TOML"),
    ],
    ids=range(12),
)
def test_what_is_no_toml(machine: Machine, text: str | bytes, says: str) -> None:
    loaded = machine.main(text, system=True)
    (fault,) = said(loaded, machine)
    assert fault.startswith("/etc/memreap/memreap.toml" + says)


def test_many_faults_take_no_minutes(machine: Machine) -> None:
    text = "[guard]\n" + "".join(f"patienc{i} = 1\n" for i in range(50_000))
    assert len(machine.main(text, system=True).faults) == 50_000


def test_there_may_be_a_thousand_of_each(machine: Machine) -> None:
    rule = "[[avoid]]\nname = 'a'\n"
    assert machine.main(rule * 1000, system=True).faults == ()
    machine.write(f"{ETC}/memreap.toml.d/1.toml", rule)
    loaded = machine.main(rule * 1000, system=True)
    here = "/etc/memreap/memreap.toml.d/1.toml"
    assert said(loaded, machine) == [f"{here}:1: avoid: more than 1000 of them"]


# -- What is wrong in them ------------------------------------------------------------------------


def test_all_faults_at_once_with_their_lines(machine: Machine) -> None:
    loaded = machine.main(
        """
patience = 2
[sistem]
[system]
enabled = "yes"
availble_min = "5%"
available_min = "5 %x"
[guard]
colour = 1
patience = 0
[cgroup]
path = "/x"
[[records]]
[[protect]]
[[protect]]
names = "x"
[[protect]]
command = "("
[[together]]
name = "make"
[[together]]
name = "make"
by = "luck"
[[tree]]
pid = 4711
[[tree]]
limit = "1G"
[[tree]]
pid = 4712
limit = "1G"
[[tree]]
pid = 4711
limit = "1G"
[[hook]]
on = "killed"
argv = "x"
"""
    )
    here = "/etc/memreap/memreap.toml"
    rest = "say one of name, command, exe, cgroup, user, unit"
    expected = [
        "2: patience: unknown here; it stands in [guard]",
        "3: sistem: unknown (did you mean system?)",
        '5: system.enabled: not true or false: "yes" (say true or false)',
        "6: system.availble_min: unknown (did you mean available_min?)",
        '7: system.available_min: not a share or size: "5 %x" (say "5%" or "400M")',
        "9: guard.colour: unknown (known are patience, term_first, dry_run, quiet)",
        "10: guard.patience: not a duration: 0 (more than 0)",
        "11: cgroup: there may be several: say [[cgroup]]",
        "13: records: stands once: say [records]",
        f"14: protect: matches nobody: {rest}",
        f"15: protect: matches nobody: {rest}",
        "16: protect.names: unknown (did you mean name?)",
        '18: protect.command: not a regular expression: "(" '
        "(missing ), unterminated subpattern at position 0)",
        '19: together.by: missing: say "cgroup" or "session" or "process-group"',
        '23: together.by: not a known word: "luck" (say "cgroup" or "session" or "process-group")',
        '24: tree.limit: missing: say "300M", "1.5G" or a number of bytes',
        "26: tree.pid: missing: say 4711; 1 is the whole system",
        "29: tree.pid: no such process: 4712",
        "32: tree.pid: twice in one file: 4711",
        '35: hook.on: not a known word: "killed" (say "warned" or "chosen" or "released" or '
        '"skipped" or "helpless" or "relieved")',
        '36: hook.argv: not a list of words: "x" (say ["/usr/bin/logger", "-t", "memreap"])',
    ]
    assert said(loaded, machine) == [f"{here}:{line}" for line in expected]


def test_a_value_that_is_overridden_must_be_right_too(machine: Machine) -> None:
    machine.write(f"{ETC}/memreap.toml.d/1.toml", "[guard]\npatience = 'long'\n")
    loaded = load(Options(system=True, patience_s=1.0), machine.as_root)
    assert [fault.key for fault in loaded.faults] == ["guard.patience"]


def test_a_fault_is_one_line_whatever_was_written(machine: Machine) -> None:
    loaded = machine.main('"a\\nb\\u001b" = 1\n[guard]\n"\\u0007" = "\\n"\npatience = "\\n"\n')
    assert [str(fault).isprintable() for fault in loaded.faults] == [True] * 3


# -- What is guarded ------------------------------------------------------------------------------


def test_every_key_arrives(machine: Machine) -> None:
    build = machine.cgroups / "build.slice"
    loaded = machine.main(
        """
guard = { patience = "1m", term_first = "500ms", dry_run = true, quiet = true }
policy = { oom_group = false, crowd = false, oomd_preference = false, defaults = false }
protect = [ { name = "a", user = 7 } ]
prefer = [ { command = "b" }, { exe = "/c" } ]
avoid = [ { cgroup = "/d" } ]
together = [ { unit = "e.scope", by = "session" } ]
[system]
enabled = true
available_min = "1G"
swap_free_min = "0%"
stall_max = 0
stall_floor = "50%"
warn = "70%"
subgroups = false
nodes = false
[[cgroup]]
path = "/build.slice"
limit = "2G"
stall_max = "1%"
stall_floor = "2%"
warn = "3%"
subgroups = false
[[tree]]
pid = 4711
limit = 2097152
warn = 0
[records]
database = ""
keep = 3
journal = false
metrics_file = "/m"
metrics_listen = "localhost:1"
notify = true
bus_signal = true
trace = false
socket = "/s"
[[hook]]
on = "skipped"
argv = ["/x", "y"]
timeout = 2
"""
    )
    assert not loaded.faults
    assert loaded.settings == Settings(
        scopes=(
            Scope(
                Kind.SYSTEM,
                "system",
                available_min=Amount(bytes=1 << 30),
                swap_free_min=Amount(share=0.0),
                stall_max=0.0,
                stall_floor=0.5,
                warn=0.7,
                subgroups=False,
                nodes=False,
            ),
            Scope(
                Kind.CGROUP,
                "cgroup:/build.slice",
                path=str(build),
                limit=Amount(bytes=2 << 30),
                stall_max=0.01,
                stall_floor=0.02,
                warn=0.03,
                subgroups=False,
            ),
            Scope(Kind.TREE, "tree:4711", pid=4711, limit=Amount(bytes=2 << 20), warn=0.0),
        ),
        policy=Policy(
            rules=(
                Rule(Verdict.PROTECT, name="a", user="7"),
                Rule(Verdict.PREFER, command="b"),
                Rule(Verdict.PREFER, exe="/c"),
                Rule(Verdict.AVOID, cgroup="/d"),
                Rule(Verdict.TOGETHER, unit="e.scope", by=Together.SESSION),
            ),
            oom_group=False,
            crowd=False,
            oomd_preference=False,
            defaults=False,
        ),
        records=Records(
            database="",
            keep=3,
            trace=False,
            journal=False,
            metrics_file="/m",
            metrics_listen="localhost:1",
            notify=True,
            bus_signal=True,
            socket="/s",
            hooks=(Hook("skipped", ("/x", "y"), 2),),
        ),
        patience_s=60.0,
        term_s=0.5,
        dry_run=True,
        quiet=True,
    )
    assert Settings.from_message(loaded.settings.as_message()) == loaded.settings


def test_the_defaults_are_those_of_settings(machine: Machine) -> None:
    loaded = load(Options(system=True, database="", socket=""), machine.as_root)
    assert loaded.settings == Settings(scopes=(Scope(Kind.SYSTEM, "system"),))


def test_the_command_line_says_what_is_guarded(machine: Machine) -> None:
    text = GUARDED + "warn = '50%'\n[[tree]]\npid = 4711\nlimit = '1G'\n"
    text += "[[cgroup]]\npath = '/build.slice'\nwarn = 0\n[guard]\npatience = 9\n"
    machine.cgroup("a/b")
    build = Scope(
        Kind.CGROUP,
        "cgroup:/build.slice",
        path=str(machine.cgroups / "build.slice"),
        limit=Amount(share=0.95),
    )
    loaded = machine.main(text, cgroups=("/build.slice", "build.slice"))
    assert "guarded already" in str(loaded.faults[0])
    loaded = machine.main(text, cgroups=("/build.slice",), patience_s=1.5, term_first_s=0.0)
    assert (loaded.settings.scopes, loaded.faults) == ((build,), ())
    assert (loaded.settings.patience_s, loaded.settings.term_s) == (1.5, None)
    assert loaded.origins["guard.patience"] == Origin("command line")
    loaded = machine.main(text, cgroups=("/a/b",), trees=(4711,), limit="1G")
    assert [(s.name, s.limit) for s in loaded.settings.scopes] == [
        ("cgroup:/a/b", Amount(bytes=1 << 30)),
        ("tree:4711", Amount(bytes=1 << 30)),
    ]
    loaded = machine.main(text, system=True)
    assert loaded.settings.scopes == (Scope(Kind.SYSTEM, "system", warn=0.5),)


def test_a_later_file_changes_the_same_cgroup(machine: Machine) -> None:
    text = "[[cgroup]]\npath = '/build.slice'\nlimit = '1G'\nwarn = '1%'\n"
    machine.write(f"{ETC}/memreap.toml.d/1.toml", text.replace("1G", "2G").replace("warn", "# "))
    (scope,) = machine.main(text).settings.scopes
    assert (scope.limit, scope.warn) == (Amount(bytes=2 << 30), 0.01)


@pytest.mark.parametrize(
    ("options", "ada", "says"),
    [
        ({}, False, str(NOTHING)),
        ({}, True, str(NOTHING)),
        (
            {"system": True},
            True,
            "command line: --system: needs root; --own guards your own processes",
        ),
        (
            {"own": True},
            False,
            "command line: --own: root's own are the whole machine's; say --system",
        ),
        ({"limit": "1G"}, False, "command line: --limit: needs --cgroup or --tree"),
        (
            {"limit": "1G", "system": True},
            False,
            "command line: --limit: needs --cgroup or --tree",
        ),
        (
            {"trees": (4711,)},
            True,
            'command line: --limit: missing: say "300M", "1.5G" or a number of bytes',
        ),
        (
            {"trees": (4711,), "limit": "x"},
            True,
            'command line: --limit: not a size: "x" (say "300M", "1.5G" or a number of bytes)',
        ),
        ({"trees": (4712,), "limit": "1G"}, True, "command line: --tree: no such process: 4712"),
        ({"cgroups": ("/no",)}, False, "command line: --cgroup: no such cgroup: /no"),
        (
            {"cgroups": ("/",)},
            False,
            "command line: --cgroup: / is the root of its hierarchy: every process",
        ),
        ({"cgroups": ("a\0b",)}, False, "command line: --cgroup: not a text"),
        ({"cgroups": ("/" + "x" * 300,)}, False, "command line: --cgroup: File name too long: /xx"),
        ({"cgroups": ("/bare",)}, False, "command line: --cgroup: /sys/fs/cgroup/bare does not"),
        ({"patience_s": -1.0, "system": True}, False, "command line: --patience: not a duration"),
        ({"socket": "x", "system": True}, False, 'command line: --socket: not a path: "x" (must'),
    ],
)
def test_what_cannot_be_guarded(
    machine: Machine, options: dict[str, Any], ada: bool, says: str
) -> None:
    (machine.cgroup("bare") / "memory.current").unlink()
    loaded = load(Options(**options), machine.as_ada if ada else machine.as_root)
    (fault,) = said(loaded, machine)
    assert fault.startswith(says)


def test_on_a_hybrid_host_the_hierarchy_with_memory_is_meant(machine: Machine) -> None:
    memory = machine.root / "sys/fs/memory"
    (machine.root / "proc/self/mounts").write_text(
        f"x {machine.cgroups} cgroup2 rw 0 0\nx {memory} cgroup rw,memory 0 0\n"
    )
    (machine.cgroups / "build.slice/memory.current").unlink()
    v1 = memory / "build.slice"
    v1.mkdir(parents=True)
    (v1 / "cgroup.procs").touch()
    (v1 / "memory.usage_in_bytes").touch()
    (scope,) = load(Options(cgroups=("/build.slice",)), machine.as_root).settings.scopes
    assert (scope.name, scope.path) == ("cgroup:/build.slice", str(v1))


@pytest.mark.parametrize("version", [1, 2])
def test_a_cgroup_that_a_file_names_may_come_later(
    machine: Machine, capsys: pytest.CaptureFixture[str], version: int
) -> None:
    if version == 1:
        mount = f"x {machine.cgroups} cgroup rw,memory 0 0\n"
        (machine.root / "proc/self/mounts").write_text(mount)
    else:
        (machine.cgroups / "cgroup.controllers").write_text("cpu memory pids\n")
    loaded = machine.main(f'{GUARDED}[[cgroup]]\npath = "/late.slice/x"\n')
    assert not loaded.faults
    _, scope = loaded.settings.scopes
    assert scope.name == "cgroup:/late.slice/x"
    assert scope.path == f"{machine.cgroups}/late.slice/x"
    assert check(Options(), machine.as_root) == 0
    told = capsys.readouterr()
    assert (
        "memreap.toml:4: cgroup.path: not there: it will be guarded once it is: /late" in told.err
    )
    assert "configuration is fine" in told.out


@pytest.mark.parametrize("name", ["/../../etc", "/late/../.."])
def test_only_a_cgroup_may_come_later(machine: Machine, name: str) -> None:
    (machine.cgroups / "cgroup.controllers").write_text("memory\n")
    (fault,) = said(machine.main(f'[[cgroup]]\npath = "{name}"\nlimit = "1G"\n'), machine)
    assert "cgroup.path: no such cgroup" in fault


def test_where_no_hierarchy_counts_memory_none_will_come(machine: Machine) -> None:
    (machine.cgroups / "cgroup.controllers").write_text("cpu\n")
    (fault,) = said(machine.main('[[cgroup]]\npath = "/late"\nlimit = "1G"\n'), machine)
    assert "cgroup.path: no such cgroup: /late" in fault


# -- Hostile input --------------------------------------------------------------------------------

SCALARS: list[Callable[[random.Random], str]] = [
    lambda _: "true",
    lambda r: str(r.randint(-(1 << 70), 1 << 70)),
    lambda r: str(r.random() * 10 ** r.randint(-9, 9)),
    lambda _: "nan",
    lambda _: "-inf",
    lambda _: "1979-05-27T07:32:00Z",
    lambda _: "07:32:00",
    lambda r: f'"{r.choice(["", "5%", "2G", "2s", "/build.slice", "(", "*", "session", "x:1"])}"',
    lambda r: f"[{', '.join(scalar(r) for _ in range(r.randint(0, 3)))}]",
    lambda r: f"{{ {r.choice(['a', 'path', 'name'])} = {scalar(r)} }}",
]


def scalar(chance: random.Random) -> str:
    return chance.choice(SCALARS)(chance)


def hostile(chance: random.Random) -> str:
    lines: list[str] = []
    for table in chance.sample(TABLES, chance.randint(1, len(TABLES))):
        several = table.several if chance.random() < 0.9 else not table.several
        if chance.random() < 0.1:
            lines.insert(0, f"{table.name} = {scalar(chance)}")
            continue
        for _ in range(chance.randint(1, 2) if several else 1):
            lines.append(f"[[{table.name}]]" if several else f"[{table.name}]")
            for key in KEYS:
                if key.table == table.name and chance.random() < 0.4:
                    lines.append(f"{key.name} = {scalar(chance)}")
            if chance.random() < 0.1:
                lines.append(f"nonsense = {scalar(chance)}")
    return "\n".join(lines)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.randoms(use_true_random=False), st.booleans())
def test_any_value_at_any_key_gives_faults_or_settings(
    machine: Machine, chance: random.Random, ada: bool
) -> None:
    file = machine.write("hostile.toml", hostile(chance))
    loaded = load(Options(config=file), machine.as_ada if ada else machine.as_root)
    assert all(str(fault).isprintable() for fault in loaded.faults)
    assert Settings.from_message(loaded.settings.as_message()) == loaded.settings or loaded.faults


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.binary() | st.text().map(str.encode))
def test_any_bytes(machine: Machine, raw: bytes) -> None:
    loaded = machine.main(raw, system=True)
    assert all(str(fault).isprintable() for fault in loaded.faults)
