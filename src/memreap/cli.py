"""Arguments in, exit code out. Nothing is done here; each command imports what it needs."""

import contextlib
import os
import re
import signal
import sys
from typing import Any, NoReturn

import click

from memreap import __version__

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}
TROUBLE_OF_RUN = 125
TROUBLE_OF_PRINTING = 1
SECONDS_MAX = 1e6
INTERRUPTED = 130


def _fail(message: str, code: int) -> NoReturn:
    click.echo(f"memreap: {message}", err=True)
    sys.exit(code)


class Size(click.ParamType[int]):
    """``300M``, ``1.5G``."""

    name = "size"

    def convert(self, value: Any, param: Any, ctx: Any) -> int:
        """Bytes; a usage error for what is no size."""
        from memreap import size  # noqa: PLC0415

        if isinstance(value, int):
            return value
        try:
            return size.parse_memory(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


class Number(click.ParamType[int]):
    """A whole number from 1 on."""

    name = "number"

    def __init__(self, what: str) -> None:
        """``what`` it is the number of, with its article."""
        self.what = what

    def convert(self, value: Any, param: Any, ctx: Any) -> int:
        """The number; a usage error for what is none."""
        try:
            number = int(value)
        except ValueError:
            number = 0
        if number < 1:
            self.fail(f"not {self.what}: {value}", param, ctx)
        return number


class Kind(click.ParamType[str]):
    """A kind of victim that can be made here."""

    name = "kind"

    def convert(self, value: Any, param: Any, ctx: Any) -> str:
        """The same; a usage error that names all of them for what is none."""
        from memreap.victims.kinds import KINDS  # noqa: PLC0415

        if value not in KINDS:
            self.fail(f"no such kind: {value} (there are {', '.join(KINDS)})", param, ctx)
        return str(value)


class Regex(click.ParamType[str]):
    """A Python regular expression."""

    name = "regex"

    def convert(self, value: Any, param: Any, ctx: Any) -> str:
        """The same text, once it has proved to be one."""
        if not value:
            self.fail("an empty regular expression matches everything", param, ctx)
        try:
            re.compile(value)
        except re.error as error:
            self.fail(f"not a regular expression: {value!r}: {error}", param, ctx)
        return str(value)


class Seconds(click.ParamType[float]):
    """``5``, ``500ms``, ``2m``: a time that a clock can hold."""

    name = "seconds"

    def __init__(self, least_s: float = 0.0) -> None:
        """``least_s``: the shortest that makes sense."""
        self.least_s = least_s

    def convert(self, value: Any, param: Any, ctx: Any) -> float:
        """Seconds; a usage error for what is no time."""
        from memreap import size  # noqa: PLC0415

        try:
            seconds = value if isinstance(value, float) else size.parse_seconds(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)
        if not self.least_s <= seconds <= SECONDS_MAX:
            least = "more than 0" if self.least_s else "at least 0"
            self.fail(f"not a time: {value} ({least}, at most 1000000 s)", param, ctx)
        return seconds


class Ended(BaseException):
    """SIGTERM or SIGHUP, for a command that must clean up before it ends."""

    def __init__(self, number: int) -> None:
        """``number``: the signal's."""
        super().__init__(signal.Signals(number).name)
        self.code = 128 + number


def _end_cleanly() -> None:
    def end(number: int, frame: object) -> NoReturn:
        del frame
        raise Ended(number)

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, end)


@click.group(context_settings=CONTEXT)
@click.version_option(__version__, prog_name="memreap")
def memreap() -> None:
    """Kill the right process, take its memory back while it exits, and see that it came back.

    A process that was killed is not memory that was freed: a victim that is starved of CPU gives
    its memory back in seconds, one that hangs in the kernel never. memreap boosts it, kills it and
    reaps it (process_mrelease) at once, and tells when the memory is back.

    \b
    Examples:
      memreap kill 4711                       kill one process, wait for its memory
      memreap kill --match 'python train'     everything with that command line
      memreap run -m 4G -- make -j16          a command under a memory budget
      memreap guard --cgroup /build.slice     a daemon that keeps a cgroup from running out
      memreap explain                         what happened last, and why
      memreap trace kill --victim hung-aio    what the kernel did, step by step
      memreap demo                            see the difference on your machine
    """


@memreap.command(short_help="Kill processes and take their memory back.")
@click.argument("pids", nargs=-1, type=Number("a process id"), metavar="[PID]...")
@click.option(
    "--cgroup",
    "cgroups",
    multiple=True,
    metavar="PATH",
    help="All in a cgroup, v1 or v2, and below it; new forks too.",
)
@click.option(
    "--match",
    "matches",
    multiple=True,
    type=Regex(),
    metavar="REGEX",
    help="All whose full command line matches.",
)
@click.option(
    "--tree",
    "trees",
    multiple=True,
    type=Number("a process id"),
    metavar="PID",
    help="A process and its descendants.",
)
@click.option(
    "--term-first",
    "term_first_s",
    type=Seconds(),
    metavar="SECONDS",
    help="SIGTERM, and SIGKILL only those that have not left by then.",
)
@click.option(
    "--timeout",
    "timeout_s",
    type=Seconds(1e-6),
    default=10.0,
    show_default=True,
    metavar="SECONDS",
    help="How long after SIGKILL a victim counts as stuck.",
)
@click.option(
    "--hold",
    type=click.Choice(["auto", "always", "never"]),
    default="auto",
    show_default=True,
    help="Keep the victim's memory in reach with a ptrace exit stop until the reap has begun.",
)
@click.option("--force", is_flag=True, help="Kill even what oom_score_adj -1000 protects.")
@click.option("--dry-run", is_flag=True, help="Say who would be killed; signal nobody.")
@click.option("--json", "json_", is_flag=True, help="One JSON object a victim on a line.")
@click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors; the exit code tells.")
def kill(json_: bool, **options: Any) -> None:
    """Kill processes and take their memory back, even if they can never exit.

    Every victim is checked (pidfd and start time), boosted, killed and reaped; whoever shares its
    memory dies with it. Refused, with the reason: init, kernel threads, memreap and its ancestors,
    oom_score_adj -1000, what is not there and what you may not signal.

    \b
    Outcomes:
      exited   it is gone, and its memory with it
      reaped   its memory is back, though it still hangs in the kernel
      stuck    killed, but not released within --timeout
      refused  not killed; WHY tells

    \b
    Exit codes:
      0 all released   1 something stuck   2 usage   3 refused or not permitted
      4 no such process   130 interrupted

    \b
    Examples:
      memreap kill 4711 4712
      memreap kill --match '^/usr/bin/python3 .*train' --dry-run
      memreap kill --cgroup /user.slice/build.scope --term-first 5 --json
    """
    from memreap import kill as command  # noqa: PLC0415

    try:
        code = command.kill(command.KillOptions(json=json_, **options))
    except command.UsageError as error:
        _fail(str(error), command.EXIT_USAGE)
    except OSError as error:
        _fail(f"cannot work here: {error}", command.EXIT_REFUSED)
    sys.exit(code)


@memreap.command(short_help="Run a command under a memory budget.")
@click.option(
    "-m",
    "--memory",
    "budget_bytes",
    type=Size(),
    required=True,
    metavar="BUDGET",
    help="What the command and all it starts may use together: 300M, 1.5G.",
)
@click.option(
    "--on-limit",
    type=click.Choice(["kill", "kill-tree", "term"]),
    default="kill",
    show_default=True,
    help="Over the budget: kill its worst process, kill the whole tree, or SIGTERM first.",
)
@click.option(
    "--protect",
    type=Regex(),
    metavar="REGEX",
    help="Never kill a process whose name or full command line matches.",
)
@click.option(
    "--patience",
    "patience_s",
    type=Seconds(1e-6),
    default=2.0,
    show_default=True,
    metavar="SECONDS",
    help="How long a victim may make no progress before the next one is chosen.",
)
@click.option(
    "--term-seconds",
    "term_s",
    type=Seconds(),
    default=2.0,
    show_default=True,
    metavar="SECONDS",
    help="With --on-limit term: from SIGTERM to SIGKILL.",
)
@click.option(
    "--json",
    "json_path",
    type=click.Path(dir_okay=False),
    metavar="FILE",
    help="Append each incident to a file, as one JSON object on a line.",
)
@click.option(
    "--cgroup",
    type=click.Choice(["auto", "never"]),
    default="auto",
    show_default=True,
    help="Measure by a delegated cgroup v2 where one can be made.",
)
@click.option(
    "--wait-tree",
    is_flag=True,
    help="Stay until every process of the tree has ended, not the command alone.",
)
@click.option("-q", "--quiet", is_flag=True, help="Say nothing but what went wrong.")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def run(protect: str | None, **options: Any) -> None:
    """Run a command under a memory budget, without root and without cgroups.

    Its whole process tree is one domain. When it uses more than BUDGET, the process with the
    highest badness (the kernel's rule) is killed and reaped, and the rest goes on; another one
    only if that was not enough. Signals, the terminal and stdin reach the command as if memreap
    were not there.

    \b
    Exit codes:
      the command's own; 128+N where signal N ended it
      137 where the command itself was the victim (one line says so)
      125 memreap's own trouble, wrong usage too   126 not executable   127 not found

    \b
    Examples:
      memreap run -m 4G -- make -j16
      memreap run -m 300M -- python3 -c 'x=bytearray(10**9)'
      memreap run -m 2G --protect '^postgres' --json incidents.jsonl -- ./start.sh
    """
    from memreap.run.options import RunOptions  # noqa: PLC0415
    from memreap.run.session import run as run_command  # noqa: PLC0415

    guarded = None if protect is None else re.compile(protect)
    try:
        code = run_command(RunOptions(protect=guarded, **options))
    except OSError as error:
        _fail(f"cannot work here: {error}", TROUBLE_OF_RUN)
    sys.exit(code)


GUARD_OPTIONS = (
    click.option(
        "--system",
        is_flag=True,
        help="The whole machine: RAM, swap, each NUMA node, and each cgroup with a limit of its own"
        " (at 95% of it).",
    ),
    click.option(
        "--cgroup",
        "cgroups",
        multiple=True,
        metavar="PATH",
        help="A memory cgroup, v1 or v2, and every one below that has a limit of its own.",
    ),
    click.option(
        "--tree",
        "trees",
        multiple=True,
        type=Number("a process id"),
        metavar="PID",
        help="A process and its descendants; needs --limit.",
    ),
    click.option("--own", is_flag=True, help="This user's processes, by the machine's memory."),
    click.option(
        "--limit",
        metavar="SIZE",
        help="The line of those cgroups and trees: 4G, or 90% of a cgroup's own limit.",
    ),
    click.option(
        "--config",
        type=click.Path(dir_okay=False),
        metavar="FILE",
        help="Read this file alone.",
    ),
    click.option(
        "--patience",
        "patience_s",
        type=Seconds(1e-6),
        metavar="SECONDS",
        help="How long a victim may make no progress before the next is chosen.  [default: 2]",
    ),
    click.option(
        "--term-first",
        "term_first_s",
        type=Seconds(),
        metavar="SECONDS",
        help="SIGTERM, and SIGKILL only after so long, or half-way from the line to the end.",
    ),
    click.option("--dry-run", is_flag=True, help="Decide and record; signal nobody."),
    click.option("-q", "--quiet", is_flag=True, help="Say nothing but what went wrong."),
    click.option(
        "--database",
        type=click.Path(dir_okay=False),
        metavar="FILE",
        help="Where incidents are written.",
    ),
    click.option("--socket", type=click.Path(), metavar="PATH", help="Where memreap status asks."),
)


def _guard_options(command: Any) -> Any:
    for option in reversed(GUARD_OPTIONS):
        command = option(command)
    return command


@memreap.command(short_help="Guard a machine, cgroups, or process trees.")
@_guard_options
@click.option(
    "--check-config",
    is_flag=True,
    help="Say what is wrong with the configuration, and exit: 0 it would start, 2 it would not.",
)
def guard(check_config: bool, **options: Any) -> None:
    """Watch what can run out of memory; act before it does; be sure that the memory comes back.

    Each domain (the system, a cgroup, a NUMA node, a process tree) has a line. Over it, the
    process with the highest badness is killed and reaped; another one only when its memory is
    back and that was not enough, or when it made no progress for --patience seconds. Policy says
    who is protected, preferred, avoided. Every decision is recorded: see memreap explain.

    Nothing is guarded that was not asked for, here or in a configuration file (memreap config
    shows what is in force). What is given here replaces the files' scopes.

    \b
    Signals: SIGHUP reads the configuration again; SIGTERM and SIGINT end the guard.

    \b
    Exit codes:
      0 ended, or nothing left to guard   1 trouble of its own
      2 usage, or a bad configuration     3 cannot be guarded here

    \b
    Examples:
      memreap guard --system --dry-run
      memreap guard --cgroup /build.slice --limit 90%
      memreap guard --tree 4711 --limit 8G --term-first 5
    """
    from memreap.config.command import check  # noqa: PLC0415
    from memreap.guard.launch import launch  # noqa: PLC0415

    given = _options(options)
    if check_config:
        sys.exit(check(given))
    launch(given)


@memreap.command(name="config", short_help="What the guard is told, and by whom.")
@_guard_options
@click.option("--json", "json_", is_flag=True, help="As a list of objects.")
@click.option("--example", is_flag=True, help="The example file, with every key and its default.")
def show_config(json_: bool, example: bool, **options: Any) -> None:
    """Print what is in force, as TOML that could be loaded again, and where each value came from.

    \b
    Exit codes:
      0 printed   2 usage, or faults, named by file, line and key   130 interrupted
    """
    from memreap.config import command  # noqa: PLC0415

    sys.exit(command.example() if example else command.show(_options(options), json_))


def _options(given: dict[str, Any]) -> Any:
    from memreap.config.options import Options  # noqa: PLC0415

    return Options(**given)


class Ago(click.ParamType[float]):
    """``90s``, ``2h``, ``3d``."""

    name = "time"

    def convert(self, value: Any, param: Any, ctx: Any) -> float:
        """Seconds; a usage error for what is no time."""
        from memreap.telling.incidents import ago_s  # noqa: PLC0415

        try:
            return value if isinstance(value, float) else ago_s(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


def _database(given: str | None) -> str:
    """Where the incidents are: as given, or where a guard of this user writes them."""
    if given:
        return given
    from memreap.config.load import records  # noqa: PLC0415
    from memreap.telling import paper  # noqa: PLC0415

    database = records().database
    if not database:
        _fail("the configuration keeps no database; --database names one", paper.EXIT_NO_DATABASE)
    return database


def _socket(given: str | None) -> str:
    """Where the guard answers: as given, or where one of this user does; else the machine's."""
    if given:
        return given
    from memreap.config.load import records  # noqa: PLC0415
    from memreap.telling import paper  # noqa: PLC0415
    from memreap.telling.asking import SOCKET  # noqa: PLC0415

    own = records().socket
    is_there = os.path.exists  # which takes what may not be seen for absent
    if os.geteuid() and not is_there(own) and is_there(SOCKET):
        return SOCKET
    if not own:
        _fail("the configuration says of no socket; --socket PATH names one", paper.EXIT_NO_GUARD)
    return own


DATABASE = click.option(
    "--database",
    type=click.Path(dir_okay=False),
    metavar="FILE",
    help="Where the guard writes them; as in its configuration otherwise.",
)


@memreap.command(short_help="List what the guard did.")
@click.option("--json", "json_", is_flag=True, help="One JSON object an incident on a line.")
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    default=20,
    show_default=True,
    help="At most so many, the newest first.",
)
@click.option(
    "--since", "since_s", type=Ago(), metavar="TIME", help="Only the last 90s, 30m, 2h, 3d, 1w."
)
@DATABASE
def incidents(json_: bool, limit: int, since_s: float | None, database: str | None) -> None:
    """List incidents: when, what ran out, who died for it, how fast it was relieved.

    \b
    Exit codes: 0 listed   2 usage   4 no such database   130 interrupted
    """
    from memreap.telling.incidents import IncidentsOptions  # noqa: PLC0415
    from memreap.telling.incidents import incidents as tell  # noqa: PLC0415

    options = IncidentsOptions(
        json=json_, limit=limit, since_s=since_s, database=_database(database)
    )
    sys.exit(tell(options))


@memreap.command(short_help="Tell one incident, and why it went as it did.")
@click.argument("id_", type=Number("an incident's number"), required=False, metavar="[ID]")
@click.option("--json", "json_", is_flag=True, help="Everything that was recorded of it.")
@DATABASE
def explain(id_: int | None, json_: bool, database: str | None) -> None:
    """Tell one incident as a person would; the last one where no ID is given.

    What ran out, who was considered with which score and why this one, what was done when, how
    fast the memory came back, whether anyone else had to die.

    \b
    Exit codes: 0 told   2 usage   4 no such incident, or database   130 interrupted
    """
    from memreap.telling.explain import ExplainOptions  # noqa: PLC0415
    from memreap.telling.explain import explain as tell  # noqa: PLC0415

    sys.exit(tell(ExplainOptions(id=id_, json=json_, database=_database(database))))


@memreap.command(short_help="How things are: domains, headroom, who is next and why.")
@click.option("--json", "json_", is_flag=True, help="As one JSON object.")
@click.option("--watch", is_flag=True, help="Again each second, until Ctrl-C.")
@click.option(
    "--socket",
    type=click.Path(),
    metavar="PATH",
    help="Where the guard answers; as in its configuration otherwise.",
)
def status(json_: bool, watch: bool, socket: str | None) -> None:
    """Ask a running guard how things are.

    \b
    Exit codes: 0 told, or --watch ended by Ctrl-C   2 usage   3 no guard answers
    """
    from memreap.telling.status import StatusOptions  # noqa: PLC0415
    from memreap.telling.status import status as tell  # noqa: PLC0415

    sys.exit(tell(StatusOptions(json=json_, watch=watch, socket=_socket(socket))))


@memreap.command(short_help="The kernel's reaper protocol, checked over every interleaving.")
@click.argument("designs", nargs=-1, metavar="[DESIGN]...")
@click.option(
    "--property", "props", multiple=True, metavar="NAME", help="Only this one; how it is broken."
)
@click.option("--scenario", "scenarios", multiple=True, metavar="NAME", help="Only this one.")
@click.option("--claims", is_flag=True, help="The claims of the mail it comes from, one by one.")
@click.option("--bugs", is_flag=True, help="Bugs of the real kernel: found, and gone when mended.")
@click.option("--list", "list_", is_flag=True, help="Designs, scenarios and properties by name.")
@click.option(
    "--from",
    "source",
    type=click.Path(dir_okay=False),
    metavar="FILE",
    help="Also the designs, scenarios and properties of a Python file; it is run.",
)
@click.option("--json", "json_", is_flag=True, help="One JSON object a row on a line.")
@click.option(
    "--html",
    type=click.Path(dir_okay=False),
    metavar="FILE",
    help="Also write one page with every counterexample as a chart.",
)
@click.option(
    "--jobs", type=click.IntRange(min=1), metavar="N", help="Processes; as many as CPUs otherwise."
)
@click.option(
    "--max-states",
    "states_max",
    type=click.IntRange(min=1),
    metavar="N",
    help="Stop a search there; what was not found broken by then is bounded, not held.",
)
def check(json_: bool, **options: Any) -> None:
    """Check who frees a dying process's memory: every design against every property.

    The kernel's OOM killer, its reaper, the exit path and process_mrelease are tasks here, as is
    every design that was discussed for them, from 4.9 to today. All their interleavings are
    searched. Without DESIGN: the matrix, in less than a minute. With one: in which scenarios it
    fails, and in how few steps. With --property too: a shortest run that breaks it.

    \b
    Exit codes:
      0 checked; of a DESIGN or --from: nothing is violated   1 something is
      2 usage   4 no such file   130 interrupted

    \b
    Examples:
      memreap check                                      designs x properties
      memreap check merged-4.14 --property torn-tree     the bug that 4837fe37adff mended
      memreap check --claims                             what the mail says, and what came out
      memreap check --html check.html                    all of it as one page
      memreap check --from my_design.py                  a design of your own
    """
    from memreap.proof import command  # noqa: PLC0415

    try:
        sys.exit(command.check(command.CheckOptions(json=json_, **options)))
    except command.UsageError as error:
        raise click.UsageError(str(error)) from error
    except command.NoFileError as error:
        _fail(str(error), command.EXIT_NO_FILE)


@memreap.command(short_help="How long to wait before the next victim: many incidents on a clock.")
@click.argument("scenarios", nargs=-1, metavar="[SCENARIO|FILE.toml]...")
@click.option(
    "--strategy",
    "strategies",
    multiple=True,
    metavar="NAME",
    help="Only this one. patience-S, domain-S and guard-S are there for any S seconds.",
)
@click.option(
    "--seeds",
    type=click.IntRange(1, 1_000_000),
    default=20,
    show_default=True,
    metavar="N",
    help="Incidents of each scenario; each strategy meets the same.",
)
@click.option(
    "--first-seed",
    type=click.IntRange(0, 1 << 62),
    default=0,
    show_default=True,
    metavar="N",
    help="The first of them.",
)
@click.option(
    "--costs",
    type=click.Path(dir_okay=False),
    metavar="FILE",
    help="What each step costs, as TOML; those that come with memreap otherwise.",
)
@click.option(
    "--executor",
    default="processes",
    show_default=True,
    metavar="processes|dask://HOST:PORT",
    help="Who does the work: processes of this machine, or the workers of a Dask scheduler.",
)
@click.option(
    "--jobs",
    type=click.IntRange(1, 4096),
    metavar="N",
    help="Processes; as many as CPUs otherwise.",
)
@click.option(
    "--results",
    type=click.Path(dir_okay=False),
    metavar="FILE.jsonl",
    help="Also keep each result, as it comes, on a line of this file.",
)
@click.option(
    "--resume", is_flag=True, help="Go on with --results: what is there is not done again."
)
@click.option("--json", "json_", is_flag=True, help="One JSON object a row on a line.")
@click.option("--png", type=click.Path(), metavar="FILE", help="Also the frontiers as a picture.")
@click.option("--svg", type=click.Path(), metavar="FILE", help="The same as SVG.")
@click.option(
    "--html", type=click.Path(), metavar="FILE", help="Also one page with charts and figures."
)
@click.option("--list", "list_", is_flag=True, help="Scenarios and strategies by name.")
@click.option(
    "--one",
    type=click.IntRange(0, 1 << 62),
    metavar="SEED",
    help="Tell one incident of each SCENARIO as a story, with guard-2 unless told.",
)
@click.option(
    "--incident",
    type=click.IntRange(min=1),
    metavar="ID",
    help="Take one of memreap incidents instead: what another configuration would have done.",
)
@click.option(
    "--config",
    type=click.Path(dir_okay=False),
    metavar="FILE",
    help="That configuration; as a guard finds it otherwise. Only with --incident.",
)
@DATABASE
def simulate(
    json_: bool, incident: int | None, config: str | None, database: str | None, **options: Any
) -> None:
    """Simulate incidents on a clock: how soon is relief, and who was killed for nothing.

    Whoever kills out of memory must choose how long to wait for a victim before the next: too
    short kills needlessly, too long leaves a machine standing still. Here the kernel's own steps
    (those that memreap check explores) and the guard's decisions run on a clock, with CPUs that
    are shared, memory that fills up, and victims that hang. Each strategy meets the same
    incidents; the frontier is made of those that no other one beats.

    Without SCENARIO: all that come with memreap, some minutes. A FILE.toml is one of your own.

    \b
    Exit codes:
      0 done   2 usage, or a file that cannot be used   3 no executor, or its workers lost for good
      4 no such incident, or one that does not say enough   130 interrupted; --results are kept

    \b
    Examples:
      memreap simulate held-lock --seeds 100                        one frontier, as a table
      memreap simulate --html frontier.html                         all of them, as a page
      memreap simulate --one 7 two-hogs --strategy kernel           one incident, told
      memreap simulate --strategy guard-2 --strategy guard-3 mine.toml
      memreap simulate --seeds 1000 --results all.jsonl --resume    hours, with interruptions
      memreap simulate --incident 7 --config patient.toml           what would have been
    """
    from memreap.simulate import again, command  # noqa: PLC0415
    from memreap.telling import paper  # noqa: PLC0415

    if incident is None and (config or database):
        raise click.UsageError("--config and --database are for --incident")
    if incident is not None:
        if options["scenarios"]:
            raise click.UsageError("--incident is one that was; it takes no SCENARIO")
        sys.exit(again.again(again.AgainOptions(incident, config, _database(database), json_)))
    _end_cleanly()
    try:
        sys.exit(command.simulate(command.SimulateOptions(json=json_, **options), paper))
    except command.UsageError as error:
        _fail(str(error), command.EXIT_USAGE)


@memreap.group(short_help="What the running kernel did: kills, exits, its OOM killer.")
def trace() -> None:
    """See what exit and reaper did to each other, by the running kernel's own tracepoints.

    Each command traces with an instance of tracefs of its own, which it removes; events that the
    kernel had to drop are counted and shown. Root is needed (tracefs); where it is not mounted,
    it is for the time of the command, and visible to nobody else.

    \b
    Examples:
      memreap trace kill 4711                       one kill, step by step
      memreap trace kill --victim hung-aio          of a victim that can never exit
      memreap trace exits --true 100000             what exit_mmap's lock costs, as in 2017
      memreap trace oom -- ./eats-its-cgroup        follow the kernel's own OOM killer
      memreap trace conform kill.jsonl              does the model allow what was traced?
    """


@trace.command(name="kill", short_help="Kill one process, and see it die step by step.")
@click.argument("named", nargs=-1, type=click.UNPROCESSED, metavar="[PID | -- COMMAND...]")
@click.option(
    "--victim",
    type=Kind(),
    metavar="KIND",
    help="Make a victim of this kind and kill it: sleeping, threads, hung-aio, hung-thread, ... (a"
    " wrong one names all).",
)
@click.option(
    "--size",
    "size_bytes",
    type=Size(),
    default="512M",
    show_default=True,
    metavar="SIZE",
    help="What --victim holds.",
)
@click.option("--alone", is_flag=True, help="SIGKILL alone, as kill(1) does: no boost, no reap.")
@click.option(
    "--after",
    "after_s",
    type=Seconds(),
    metavar="SECONDS",
    help="Kill COMMAND after so long; without: when its memory has stood still for 0.5 s.",
)
@click.option(
    "--timeout",
    "timeout_s",
    type=Seconds(1e-3),
    default=10.0,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait for its end.",
)
@click.option("--save", type=click.Path(dir_okay=False), metavar="FILE", help="Keep the trace.")
@click.option("--svg", type=click.Path(dir_okay=False), metavar="FILE", help="Also a picture.")
@click.option("--html", type=click.Path(dir_okay=False), metavar="FILE", help="Also a page.")
@click.option("--json", "json_", is_flag=True, help="One JSON object instead of the table.")
def trace_kill(json_: bool, named: tuple[str, ...], **options: Any) -> None:
    """Kill a process as `memreap kill` does, and show what happened to its memory, and by whom.

    The table has every step: SIGKILL sent and delivered, process_mrelease in and out, mmap_lock
    asked for, got and let go, who freed how much, exit_mmap done, the process gone. --svg and
    --html draw it: a lane for the exit, one for each reaper, and the memory below.

    Whoever is killed is killed: this is no rehearsal. Whom memreap kill refuses, this refuses.

    \b
    Exit codes:
      0 its memory is back   1 it is stuck   2 usage   3 not permitted, or tracing is not to be had

    \b
    Examples:
      memreap trace kill 4711 --html kill.html
      memreap trace kill --save kill.jsonl -- python3 -c 'b = bytearray(1 << 30); input()'
      memreap trace kill --victim hung-aio --svg hung.svg
      memreap trace kill --victim sleeping --alone
    """
    from memreap.evidence import command as evidence  # noqa: PLC0415

    _end_cleanly()
    options |= {"named": named, "json": json_}
    sys.exit(evidence.trace_kill(evidence.TraceKillOptions(**options)))


@trace.command(name="exits", short_help="What exit_mmap's write lock costs all who exit.")
@click.argument("command", nargs=-1, type=click.UNPROCESSED, metavar="[-- COMMAND...]")
@click.option(
    "--seconds",
    type=Seconds(1e-3),
    metavar="SECONDS",
    help="Trace for so long; until Ctrl-C otherwise.",
)
@click.option(
    "--true",
    type=click.IntRange(1, 100_000_000),
    metavar="N",
    help="Run /bin/true N times, as fast as all CPUs can: the load of 2017 was 100000.",
)
@click.option(
    "--json", "json_", is_flag=True, help="One JSON object; COMMAND's stdout goes to stderr."
)
def trace_exits(
    command: tuple[str, ...], seconds: float | None, true: int | None, json_: bool
) -> None:
    """How often exit_mmap had to wait for mmap_lock, how long it held it, and what that cost.

    Every exit of the machine counts while it runs: until COMMAND ends, for --seconds, over --true
    runs of /bin/true, or until Ctrl-C. "Unnecessary" is a lock that nobody else wanted while
    exit_mmap wanted or held it: the mail of 2017 said 99.9 % of the time. Exits that another task
    finished, and those of which only a part was seen, are counted apart.

    \b
    Exit codes:
      0 done, or COMMAND's own   2 usage   3 not permitted, or tracing is not to be had
      126, 127 COMMAND cannot be run, or is not there   130 --true was interrupted

    \b
    Examples:
      memreap trace exits --true 100000
      memreap trace exits -- make -j8
      memreap trace exits --seconds 60 --json
    """
    from memreap.evidence import exits_command  # noqa: PLC0415
    from memreap.telling import paper  # noqa: PLC0415

    _end_cleanly()
    options = exits_command.ExitsOptions(command, seconds, true, json_)
    sys.exit(exits_command.exits(options, paper))


@trace.command(name="oom", short_help="Follow the kernel's own OOM killer.")
@click.argument("command", nargs=-1, type=click.UNPROCESSED, metavar="[-- COMMAND...]")
@click.option("--cgroup", metavar="PATH", help="Only victims in this cgroup or below it.")
@click.option(
    "--count", type=click.IntRange(1, 1_000_000), metavar="N", help="End after N victims."
)
@click.option(
    "--seconds", "seconds_s", type=Seconds(1e-3), metavar="SECONDS", help="End after so long."
)
@click.option("--json", "json_", is_flag=True, help="One JSON object a victim on a line.")
def trace_oom(json_: bool, **options: Any) -> None:
    """Whom the kernel's OOM killer marks, when its reaper comes, and who frees the memory.

    Of each victim: marked, the reaper woken (two seconds later, since Linux 5.18), reaping begun,
    finished or skipped and why, what the reaper freed and what the exit did, exit_mmap done, gone.
    Told as each of them ends, until COMMAND ends, --count, --seconds or Ctrl-C. A victim that still
    hung when it was told of is told once more when it is gone. COMMAND is started where it is, not
    put in the cgroup; with --json its stdout goes to stderr.

    \b
    Exit codes:
      0 followed to the end   2 usage, or no such cgroup   3 not permitted, or no tracing here

    \b
    Examples:
      memreap trace oom
      memreap trace oom --cgroup /sys/fs/cgroup/build.slice --json
      memreap trace oom --count 1 -- ./eats-its-cgroup
    """
    from memreap.evidence import following  # noqa: PLC0415
    from memreap.telling import paper  # noqa: PLC0415

    _end_cleanly()
    try:
        sys.exit(following.oom(following.OomOptions(json=json_, **options), paper))
    except following.UsageError as error:
        _fail(str(error), 2)


@trace.command(name="conform", short_help="Does the model allow what was traced?")
@click.argument("files", nargs=-1, required=True, type=click.Path(), metavar="FILE...")
@click.option(
    "--design",
    default="current",
    show_default=True,
    metavar="NAME",
    help="The design to hold it against; see memreap check --list.",
)
@click.option("--strict", is_flag=True, help="Assume nothing that no event tells of.")
@click.option("--json", "json_", is_flag=True, help="One JSON object a file on a line.")
def trace_conform(files: tuple[str, ...], json_: bool, **options: Any) -> None:
    """Whether the order of events in a trace is one that the model of the kernel allows.

    FILE is a trace of memreap trace kill --save. The model of reaper and exit path is followed
    along it, with every state that it may be in; an event that none of them allows is shown, with
    what would have been allowed there. Needs no root, and touches nothing.

    \b
    Exit codes:
      0 the model allows all of them   1 one it does not   2 usage, or no trace that says enough

    \b
    Examples:
      memreap trace kill --save kill.jsonl --victim threads
      memreap trace conform kill.jsonl
      memreap trace conform kill.jsonl --design pre-4.14
    """
    from memreap.evidence import conform  # noqa: PLC0415
    from memreap.telling import paper  # noqa: PLC0415

    try:
        told = conform.ConformOptions(files=files, json=json_, **options)
        sys.exit(conform.conform(told, paper))
    except conform.UsageError as error:
        _fail(str(error), 2)


@memreap.command()
@click.option("--json", "json_", is_flag=True, help="Also one JSON object a victim on a line.")
@click.option(
    "--svg",
    "svg_path",
    type=click.Path(dir_okay=False),
    metavar="FILE",
    help="Also a picture of the table.",
)
def demo(json_: bool, svg_path: str | None) -> None:
    """See the difference on this machine: SIGKILL alone beside memreap.

    Plays every kind of victim that this machine and user allow, on processes of its own of at
    most 1 GiB, in under a minute, and cleans up whatever happens. What it must leave out it names.

    \b
    Exit codes:
      0 memreap had every victim's memory back   1 it had not   130 interrupted
    """
    from memreap.demo import show  # noqa: PLC0415

    _end_cleanly()
    try:
        sys.exit(show.demo(as_json=json_, svg_path=svg_path))
    except KeyboardInterrupt:
        _fail("interrupted; everything that was made is gone", INTERRUPTED)
    except (OSError, RuntimeError) as error:
        _fail(f"cannot show it here: {error}", 1)


def main() -> None:
    """Entry point of the ``memreap`` command."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by whoever started us: nobody wants to hear
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
    try:
        sys.exit(memreap.main(prog_name="memreap", standalone_mode=False) or 0)
    except click.ClickException as error:
        error.show()
        context = getattr(error, "ctx", None)
        of_run = context is not None and context.info_name == "run"
        sys.exit(TROUBLE_OF_RUN if of_run else error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(INTERRUPTED)
    except OSError as error:  # a full disk behind stdout, a closed pipe
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        _fail(f"cannot print: {error.strerror}", TROUBLE_OF_PRINTING)
    except Ended as signalled:
        _fail(f"ended by {signalled}; everything that was made is gone", signalled.code)


if __name__ == "__main__":
    main()
