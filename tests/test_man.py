"""The manual says what the program can do, and no more: commands, options, keys, exit codes."""

import re
import shutil
import subprocess
from pathlib import Path

import click
import pytest

from memreap import __version__, cli
from memreap.config.keys import KEYS, TABLES
from memreap.config.toml import literal

MAN = Path(__file__).parents[1] / "man"
PAGES = sorted(path.name for path in MAN.iterdir())
COMMANDS = {"memreap": cli.memreap, **{f"memreap-{n}": c for n, c in cli.memreap.commands.items()}}
CODES = re.compile(r"(?:^|(?<=[\s(]))(\d{1,3})(?= [a-z])")
# Which pages a rule's keys and the thresholds are explained in once for several tables.
SHARED = {"protect", "prefer", "avoid", "together"}


def page(command: str) -> Path:
    (found,) = MAN.glob(f"{command}.[18]")
    return found


def plain(raw: str) -> str:
    """Roff without its escapes and fonts."""
    raw = re.sub(r"\\f(\(..|\[.*?\]|.)", "", raw)
    return raw.replace(r"\-", "-").replace(r"\(dq", '"').replace(r"\(aq", "'").replace(r"\&", "")


def sections(file: Path) -> dict[str, str]:
    """Its sections by heading."""
    parts = re.split(r'^\.SH "?(.*?)"?$', file.read_text(), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def tags(section: str) -> list[str]:
    """What stands in front of each paragraph: the line after .TP, as it is printed."""
    found = re.findall(r"^\.TP\n(\.[A-Z]+ )?(.*)$", section, re.MULTILINE)
    return [plain(_joined(tag) if macro else tag) for macro, tag in found]


def _joined(arguments: str) -> str:
    """A macro's arguments, which it prints without space between them."""
    return "".join(quoted or bare for quoted, bare in re.findall(r'"([^"]*)"|(\S+)', arguments))


def every(command: click.Command) -> list[click.Command]:
    """The command; one that has commands of its own shares its page with them."""
    if isinstance(command, click.Group) and command is not cli.memreap:
        return [command, *command.commands.values()]
    return [command]


def options_of(command: click.Command) -> set[str]:
    params = [p for one in every(command) for p in one.params]
    named = {o for p in params if isinstance(p, click.Option) for o in p.opts}
    return named | {"-h", "--help"}


def test_every_command_has_a_page_and_every_page_a_command() -> None:
    assert {name.rpartition(".")[0] for name in PAGES} == {*COMMANDS, "memreap.toml"}


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_option_stands_in_its_page_and_the_reverse(name: str) -> None:
    section = sections(page(name))["OPTIONS"]
    told = {o for tag in tags(section) for o in re.findall(r"(?<![\w-])--?[a-z][a-z-]*", tag)}
    assert told == options_of(COMMANDS[name])


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_default_of_an_option_stands_in_its_page(name: str) -> None:
    section = plain(sections(page(name))["OPTIONS"])
    for option in (p for one in every(COMMANDS[name]) for p in one.params):
        if isinstance(option, click.Option) and option.show_default:
            (told,) = re.findall(
                rf"^\.TP\n.*{option.opts[-1]}\b.*\n((?:(?!\.TP).*\n)*)", section, re.MULTILINE
            )
            default = option.default
            shown = f"{default:g}" if isinstance(default, float | int) else str(default)
            assert re.search(rf"(?<!\w){shown}(?!\w)", told), option.name


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_exit_code_of_the_help_is_named(name: str) -> None:
    told = " ".join(tags(sections(page(name))["EXIT STATUS"]))
    codes: set[str] = set()
    for one in every(COMMANDS[name]):
        _, _, help_ = (one.help or "").partition("Exit codes:")
        help_, _, _ = help_.partition("Examples:")
        codes |= set(CODES.findall(help_))
    assert codes or name == "memreap"
    assert codes <= set(re.findall(r"\d+", told))


def subsections(raw: str) -> dict[str, str]:
    parts = re.split(r'^\.SS "?(.*?)"?$', raw, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


@pytest.fixture(scope="module")
def tables() -> dict[str, str]:
    """What memreap.toml(5) says of each table."""
    raw = (MAN / "memreap.toml.5").read_text()
    found: dict[str, str] = {}
    for heading, body in subsections(raw).items():
        for name in re.findall(r"\[(\w+)\]", heading):
            found[name] = re.split(r"^\.SH", body, flags=re.MULTILINE)[0]
    return found


def test_every_table_stands_in_the_manual_and_the_reverse(tables: dict[str, str]) -> None:
    assert set(tables) == {table.name for table in TABLES}


def test_every_key_stands_in_the_manual_and_the_reverse(tables: dict[str, str]) -> None:
    told = {
        (table, key)
        for table, body in tables.items()
        for tag in tags(body)
        for key in re.findall(r"(?:^|(?<=, ))([a-z_]+)\b", re.sub(r" \(.*?\)", "", tag))
    }
    known = {(key.table, key.name) for key in KEYS}
    # by is of [[together]] alone; the four kinds of rules are explained as one.
    spread = {(table, "by") for table in SHARED - {"together"}}
    assert told - spread == known


def test_every_default_of_a_key_stands_in_the_manual(tables: dict[str, str]) -> None:
    for key in KEYS:
        if key.default is None and not key.required:
            continue
        wanted = "required" if key.required else literal(key.default)
        (tag,) = [t for t in tags(tables[key.table]) if re.search(rf"\b{key.name}\b", t)]
        after = tag.partition(key.name)[2]
        assert wanted in after.partition(")")[0], key.path


@pytest.mark.parametrize("name", PAGES)
def test_a_page_has_what_a_page_has(name: str) -> None:
    raw = (MAN / name).read_text()
    title, section = name.rsplit(".", 1)
    head = re.search(r"^\.TH (\S+) (\d) \S+ \"memreap ([\d.]+)\"", raw, re.MULTILINE)
    assert head
    assert (plain(head[1]).lower(), head[2], head[3]) == (title, section, __version__)
    found = list(sections(MAN / name))
    assert found[:3] == ["NAME", "SYNOPSIS", "DESCRIPTION"]
    assert found[-1] == "SEE ALSO"
    for other, number in re.findall(r"^\.BR (memreap[\w.\\-]*) \((\d)\)", raw, re.MULTILINE):
        assert (MAN / f"{plain(other)}.{number}").exists()
    assert max(map(len, raw.splitlines())) <= 200


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_clean(name: str) -> None:
    for command in (["mandoc", "-T", "lint", "-W", "warning"], ["groff", "-man", "-ww", "-z"]):
        if shutil.which(command[0]):
            done = subprocess.run(
                [*command, MAN / name], capture_output=True, text=True, check=False
            )
            assert (done.stdout, done.stderr) == ("", "")
            return
    pytest.skip("neither mandoc nor groff")
