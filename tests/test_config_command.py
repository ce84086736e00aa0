"""What is shown, checked and handed on; the example file and the reference, held to the table."""

import json
import os
import re
import subprocess
import sys
import tomllib
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from memreap import cli
from memreap.config import command
from memreap.config.keys import KEYS, TABLES, Key
from memreap.config.load import load, without_scopes
from memreap.config.options import Options
from memreap.config.places import Places
from memreap.config.toml import literal
from memreap.guard.settings import Kind, Scope, Settings
from memreap.linux.procfs import Procfs

DOCS = Path(__file__).parents[1] / "docs" / "config.md"
EXAMPLE = resources.files("memreap.config").joinpath("memreap.toml").read_text()
SAMPLES: dict[str, list[Any]] = {
    "true or false": [True, False],
    "a duration": ["2s", "500ms", 1, 0.25],
    "a share": ["40%", "0.5 %", 0],
    "a share or size": ["5%", "400M", 1 << 30],
    "a size": ["1.5G", 4096],
    "a whole number": [1, 1000],
    "a process id": [4711],
    "a text": ["/build.slice"],
    "a pattern": ["postgres", "*\u00fc\u200b\"'\\ ", "a\nb\x7f\x1b[31m"],
    "a regular expression": [r"^a\.b", "'\"#\t"],
    "a user": ["ada", 1000],
    "a path": ["", "/x y/\u00e9"],
    "an address and port": ["", "[::1]:9469"],
    "a list of words": [["/bin/x"], ["/bin/y", "", "\n"]],
}


@pytest.fixture
def where(tmp_path: Path) -> Places:
    """Root's, on a machine with one cgroup and one process."""
    cgroup, proc = tmp_path / "cgroup", tmp_path / "proc"
    (cgroup / "build.slice").mkdir(parents=True)
    for file in ("cgroup.procs", "memory.current"):
        (cgroup / "build.slice" / file).touch()
    (proc / "self").mkdir(parents=True)
    (proc / "4711").mkdir()
    (proc / "self/mounts").write_text(f"cgroup2 {cgroup} cgroup2 rw 0 0\n")
    owner = tmp_path.stat().st_uid
    return Places(0, {}, str(tmp_path), Procfs(str(proc)), (0, owner))


def ada(where: Places) -> Places:
    return replace(where, uid=1000, environ={"HOME": "/home/ada"})


def write(where: Places, text: str, name: str = "etc/memreap/memreap.toml") -> str:
    file = Path(where.root, name)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    file.chmod(0o644)
    return str(file)


# -- What is in force -----------------------------------------------------------------------------


def loaded_again(toml: str, where: Places) -> Settings:
    again = load(Options(config=write(where, toml, "again.toml")), where)
    assert not without_scopes(again.faults)
    return again.settings


def samples(key: Key) -> st.SearchStrategy[Any]:
    valid = []
    for raw in SAMPLES.get(key.type.name, re.findall(r'"([^"]+)"', key.type.say)):
        try:
            key.type.read(raw)
        except ValueError:  # a number that must be more than 0
            continue
        valid.append(raw)
    return st.sampled_from(valid)


@st.composite
def documents(draw: Any) -> str:
    lines: list[str] = []
    for table in TABLES:
        identities = 1 if table.identity else 2
        for _ in range(draw(st.integers(0, identities)) if table.several else 1):
            lines.append(table.header)
            chosen = {
                key.name: draw(samples(key))
                for key in KEYS
                if key.table == table.name and (key.required or draw(st.booleans()))
            }
            if table.for_all and table.several:
                chosen.setdefault("name", "x*")
            if table.name == "own":
                chosen["enabled"] = False
            lines += [f"{name} = {literal(raw)}" for name, raw in chosen.items()]
    return "\n".join(lines)


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(documents())
def test_what_is_shown_can_be_loaded_again(where: Places, text: str) -> None:
    write(where, text)
    loaded = load(Options(), where)
    assert not without_scopes(loaded.faults)
    assert loaded_again(command.as_toml(loaded), where) == loaded.settings


@pytest.mark.parametrize(
    "options",
    [
        Options(system=True, patience_s=1e-06, term_first_s=2.5, dry_run=True, quiet=True),
        Options(cgroups=("build.slice",), trees=(4711,), limit="1.5G", socket="", database="/x"),
    ],
)
def test_the_command_line_can_be_loaded_again(where: Places, options: Options) -> None:
    write(where, "[system]\nenabled = true\nwarn = 0\n")
    loaded = load(options, where)
    assert loaded_again(command.as_toml(loaded), where) == loaded.settings
    assert Options.from_message(json.loads(json.dumps(options.as_message()))) == options


def test_shown_with_origins(where: Places, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(where, "[guard]\n\npatience = '3s'\n[[protect]]\nname = 'a\\b'\n")
    assert command.show(Options(system=True), False, where) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"# Read: {file}\n\n[guard]\n")
    assert re.search(rf'^patience = "3s" +# {re.escape(file)}:3$', out, re.MULTILINE)
    assert re.search(r"^enabled = true +# command line$", out, re.MULTILINE)
    assert re.search(r'^term_first = "0s" +# default$', out, re.MULTILINE)
    assert '\n[[protect]]\nname = "a\\\\b"' in out


def test_shown_as_json(where: Places, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(where, "[[hook]]\non = 'chosen'\nargv = ['/x']\n")
    assert command.show(Options(system=True), True, where) == 0
    rows = {row["key"]: row for row in json.loads(capsys.readouterr().out)}
    named = {"key": "hook[0].argv", "value": ["/x"], "origin": "file", "file": file, "line": 3}
    assert rows["hook[0].argv"] == named
    assert rows["guard.patience"] == {
        "key": "guard.patience",
        "value": "2s",
        "origin": "default",
        "file": None,
        "line": None,
    }
    assert rows["system.enabled"]["origin"] == "command line"


def test_shown_where_nothing_is_guarded(where: Places, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.show(Options(), False, ada(where)) == 0
    assert capsys.readouterr().out.startswith("# No file was read.\n# Nothing is guarded.\n")


def test_faults_are_told_on_stderr(where: Places, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(where, "".join(f"a{i} = 1\n" for i in range(150)))
    for run in (command.check, command.settings_json, lambda o, w: command.show(o, True, w)):
        assert run(Options(system=True), where) == 2
        out, err = capsys.readouterr()
        assert out == ""
        lines = err.splitlines()
        assert (lines[0], lines[-1], len(lines)) == (f"{file}:1: a0: unknown", "and 50 more", 101)


def test_checked(where: Places, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.check(Options(system=True), where) == 0
    assert capsys.readouterr().out == "configuration is fine: no files, only defaults\n"
    file = write(where, "[system]\nenabled = true\n")
    assert command.check(Options(), where) == 0
    assert capsys.readouterr().out == f"configuration is fine: {file}\n"
    write(where, "")
    assert command.check(Options(), where) == 2
    assert capsys.readouterr().err.startswith("nothing to guard: ")


# -- For a guard that reloads ---------------------------------------------------------------------


def test_settings_as_json(where: Places, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.settings_json(Options(system=True, quiet=True), where) == 0
    settings = Settings.from_message(json.loads(capsys.readouterr().out))
    assert settings == load(Options(system=True, quiet=True), where).settings


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, timeout=20, check=False
    )


def test_a_process_of_its_own(where: Places) -> None:
    file = write(where, "[system]\nwarn = 0\n[[tree]]\npid = 1000000\nlimit = 1\n")
    options = Options(config=file, trees=(4_000_000,), limit="1G")
    done = python("-P", "-m", "memreap.config", json.dumps(options.as_message()))
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == "command line: --tree: no such process: 4000000"
    for wrong in ("{", "1", '{"x": 1}'):
        done = python("-P", "-m", "memreap.config", wrong)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith("memreap: not options: ")
        assert len(done.stderr.splitlines()) == 1


def test_it_imports_little() -> None:
    loaded = python("-c", "import memreap.config.command, sys; print(*sys.modules)").stdout.split()
    assert "tomllib" in loaded
    assert not {"click", "rich", "sqlite3", "asyncio", "memreap.cli"}.intersection(loaded)


# -- The example file -----------------------------------------------------------------------------

IN_FORCE = re.sub(r"^#(?=[a-z\[])", "", EXAMPLE, flags=re.MULTILINE)


def test_as_shipped_it_changes_nothing(where: Places, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(where, EXAMPLE)
    loaded = load(Options(config=file, system=True, database="", socket=""), where)
    assert not loaded.faults
    assert loaded.settings == Settings(scopes=(Scope(Kind.SYSTEM, "system"),))
    assert command.example() == 0
    assert capsys.readouterr().out == EXAMPLE


def test_every_line_of_it_can_be_taken(where: Places) -> None:
    loaded = load(Options(config=write(where, IN_FORCE)), where)
    assert not loaded.faults
    assert [scope.name for scope in loaded.settings.scopes] == ["cgroup:/build.slice", "tree:4711"]


@pytest.mark.parametrize("key", KEYS, ids=lambda key: key.path)
def test_every_key_is_in_it_with_its_default(where: Places, key: Key) -> None:
    tables = tomllib.loads(IN_FORCE)[key.table]
    values = [
        table[key.name]
        for table in ([tables] if isinstance(tables, dict) else tables)
        if key.name in table
    ]
    default = {
        "records.database": where.database()[0],
        "records.socket": where.socket()[0],
    }.get(key.path, key.default)
    assert values
    assert default is None or values == [default]
    assert f"\n#{key.name} = " in EXAMPLE


BLOCKS = re.findall(r"^# Example: (.*)\n((?:#(?:   .*)?\n)+)", EXAMPLE, re.MULTILINE)


@pytest.mark.parametrize(("title", "block"), BLOCKS, ids=[title for title, _ in BLOCKS])
def test_its_whole_files_are_right(where: Places, title: str, block: str) -> None:
    text = re.sub(r"^#(?:   )?", "", block, flags=re.MULTILINE)
    loaded = load(Options(config=write(where, text)), where)
    assert not loaded.faults
    assert loaded.settings.scopes[0].kind is Kind.SYSTEM
    assert len(tomllib.loads(text)) > 2


def test_there_are_four_whole_files() -> None:
    words = [title.split()[1] for title, _ in BLOCKS]
    assert words == ["desktop,", "CI", "Kubernetes", "machine"]


# -- The reference --------------------------------------------------------------------------------


def row(key: Key) -> str:
    """A key's line in docs/config.md."""
    default = "required" if key.required else ""
    default = default if key.default is None else f"`{literal(key.default)}`"
    kind = key.type.name.removeprefix("a ").removeprefix("an ").replace("|", "\\|")
    cells = (f"`{key.name}`", kind, default, key.doc.replace("|", "\\|"))
    return f"| {' | '.join(cells)} |"


def sections() -> dict[str, str]:
    parts = re.split(r"^### `(\[+\w+\]+)`.*$", DOCS.read_text(), flags=re.MULTILINE)
    return {name.strip("[]"): body for name, body in zip(parts[1::2], parts[2::2], strict=True)}


def rule_tables(key: Key) -> str:
    """prefer, avoid and together match by the same keys as protect, explained once."""
    return "protect" if key.table in ("prefer", "avoid", "together") else key.table


@pytest.mark.parametrize("key", KEYS, ids=lambda key: key.path)
def test_every_key_is_in_the_reference(key: Key) -> None:
    table = key.table if key.path == "together.by" else rule_tables(key)
    assert row(key) in sections()[table].splitlines()


def test_every_table_is_in_the_reference_in_its_order() -> None:
    assert list(sections()) == [table.name for table in TABLES]


def test_what_the_reference_gives_as_a_file_is_right(where: Places) -> None:
    blocks = re.findall(r"^```toml\n(.*?)^```", DOCS.read_text(), re.MULTILINE | re.DOTALL)
    assert blocks
    for block in blocks:
        loaded = load(Options(config=write(where, block), system=True), where)
        assert loaded.faults == ()


# -- Those who ask a guard look where its configuration says -------------------------------------


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's own, with a file that moves database and socket."""
    if os.geteuid() == 0:
        monkeypatch.setattr(Places, "is_root", property(lambda _: False))
    file = tmp_path / ".config/memreap/memreap.toml"
    file.parent.mkdir(parents=True)
    file.write_text(f'[records]\ndatabase = "{tmp_path}/i.db"\nsocket = "{tmp_path}/x.sock"\n')
    for name in ("XDG_CONFIG_HOME", "XDG_STATE_HOME", "XDG_RUNTIME_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("verb", ["explain", "incidents"])
def test_incidents_are_looked_for_where_the_guard_keeps_them(home: Path, verb: str) -> None:
    done = CliRunner().invoke(cli.memreap, [verb])
    assert done.exit_code == 4
    assert f"no database {home}/i.db" in done.output + done.stderr


def test_a_guard_is_asked_where_it_answers(home: Path) -> None:
    done = CliRunner().invoke(cli.memreap, ["status"])
    assert done.exit_code == 3
    assert f"{home}/x.sock" in done.output + done.stderr


def test_where_nothing_is_kept_that_is_said(home: Path) -> None:
    (home / ".config/memreap/memreap.toml").write_text("[records]\ndatabase = ''\n")
    done = CliRunner().invoke(cli.memreap, ["explain"])
    assert (done.exit_code, "keeps no database" in done.output + done.stderr) == (4, True)


@pytest.mark.parametrize(
    ("argv", "code", "says"),
    [
        (["run", "-m", "4", "--", "true"], 125, "less than 1 MiB: '4'"),
        (["kill", "--term-first", "5 weeks", "1"], 2, "not a time: '5 weeks'"),
        (["kill", "--timeout", "0s", "1"], 2, "not a time: 0s (more than 0"),
        (["kill", "--term-first", "9999h", "1"], 2, "(at least 0, at most 1000000 s)"),
        (["kill", "x"], 2, "not a process id: x"),
        (["explain", "0"], 2, "not an incident's number: 0"),
        (["trace", "kill", "--victim", "nosuch"], 2, "no such kind: nosuch (there are sleeping"),
    ],
)
def test_what_cannot_be_meant_is_said_in_a_line(argv: list[str], code: int, says: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "memreap", *argv], capture_output=True, text=True, check=False
    )
    assert done.returncode == code
    assert says in done.stderr


@pytest.mark.parametrize(("text", "seconds"), [("0.5", 0.5), ("500ms", 0.5), ("2m", 120.0)])
def test_times_have_units_where_people_give_them_one(text: str, seconds: float) -> None:
    assert cli.Seconds().convert(text, None, None) == seconds
