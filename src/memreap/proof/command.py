"""``memreap check``: what was asked on the command line, and what is printed.

Only the order of things lives here: ``matrix``, ``claims`` and ``bugs`` find out, ``board``,
``columns`` and ``page`` show.
"""

import contextlib
import os
import signal
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from memreap.mm.argument import CLAIMS
from memreap.mm.bugs import BUGS
from memreap.proof import board, bugs, claims, columns
from memreap.proof.bring import BadSourceError, Subjects, subjects
from memreap.proof.matrix import Answer, Pair, Row, answer, answers, pairs
from memreap.telling import paper

IGNORE_INTERRUPTS = (signal.SIGINT, signal.SIG_IGN)
EXIT_HOLDS, EXIT_VIOLATED, EXIT_USAGE, EXIT_NO_FILE = 0, 1, 2, 4


class NoFileError(ValueError):
    """The user's file is not there."""


class UsageError(ValueError):
    """What was asked for cannot be; the message says why."""


@dataclass(frozen=True, slots=True)
class CheckOptions:
    """The command line."""

    designs: tuple[str, ...] = ()
    props: tuple[str, ...] = ()
    scenarios: tuple[str, ...] = ()
    source: str | None = None
    claims: bool = False
    bugs: bool = False
    list_: bool = False
    json: bool = False
    html: str | None = None
    jobs: int | None = None
    states_max: int | None = None


def check(options: CheckOptions) -> int:
    """Do it; the exit code. Raises UsageError, NoFileError."""
    if options.source and not Path(options.source).is_file():
        raise NoFileError(f"no such file: {options.source}")
    try:
        return _check(options)
    except BadSourceError as error:
        raise UsageError(str(error)) from error


def _check(options: CheckOptions) -> int:
    known = subjects(options.source)
    _check_names(options, known)
    if options.list_:
        return paper.finish(board.show_names(known, as_json=options.json))
    with _workers(options) as executor:
        if options.claims:
            code = _claims(options, executor)
        elif options.bugs:
            code = _bugs(options, executor)
        else:
            code = _matrix(options, known, executor)
    return paper.finish(code)


def _check_names(options: CheckOptions, known: Subjects) -> None:
    for what, given, there in (
        ("design", options.designs, known.designs),
        ("property", options.props, known.properties),
        ("scenario", options.scenarios, known.scenarios),
    ):
        for name in given:
            if name not in there:
                raise UsageError(f"no {what} {name!r}; there are: {', '.join(there)}")
    alone = [options.claims, options.bugs, options.list_]
    picked = bool(options.designs or options.props or options.scenarios or options.html)
    if sum(alone) > 1 or (any(alone) and picked):
        raise UsageError("--claims, --bugs and --list go alone, with --json at the most")


@contextlib.contextmanager
def _workers(options: CheckOptions) -> Iterator[Executor | None]:
    """As many processes as there are CPUs, or as were asked for; none where one will do."""
    jobs = options.jobs or len(os.sched_getaffinity(0))
    if jobs == 1:
        yield None
        return
    # Ctrl-C is the parent's to answer: it ends them.
    pool = ProcessPoolExecutor(jobs, initializer=signal.signal, initargs=IGNORE_INTERRUPTS)
    try:
        yield pool
        pool.shutdown()
    finally:  # whatever happened, nobody waits for what is under way
        for process in list((pool._processes or {}).values()):
            process.terminate()
        pool.shutdown()


def _claims(options: CheckOptions, executor: Executor | None) -> int:
    judged = list(board.progress(claims.judgements(CLAIMS, executor), len(CLAIMS)))
    counted = list(claims.lockings(executor))
    board.show_claims(judged, counted, as_json=options.json)
    return EXIT_HOLDS if all(one.stands for one in judged) else EXIT_VIOLATED


def _bugs(options: CheckOptions, executor: Executor | None) -> int:
    hunted = list(board.progress(bugs.hunts(executor), len(BUGS)))
    board.show_bugs(hunted, as_json=options.json)
    return EXIT_HOLDS if all(one.steps and one.is_gone for one in hunted) else EXIT_VIOLATED


def _matrix(options: CheckOptions, known: Subjects, executor: Executor | None) -> int:
    own = [name for name in known.designs if name in known.own]
    designs = list(dict.fromkeys(options.designs)) or own or list(known.designs)
    scenarios = list(options.scenarios) or None
    how = {"states_max": options.states_max, "with_counterexamples": bool(options.html)}
    todo = [pair for pair in pairs(known, designs, scenarios, **how) if _asks(pair, options, known)]
    if not todo:
        raise UsageError("nothing to check: no scenario given can be had with that design, or asks")
    told = []
    for one in board.progress(answers(todo, executor), len(todo)):
        told.append(_only(one, options.props))
    order = {(pair.design, pair.scenario): number for number, pair in enumerate(todo)}
    told.sort(key=lambda one: order[one.pair.design, one.pair.scenario])
    if options.html:
        _write_page(told, options.html, known)
    _print(told, options, known)
    is_asked = bool(options.designs or own)
    return EXIT_VIOLATED if is_asked and any(_violated(told)) else EXIT_HOLDS


def _asks(pair: Pair, options: CheckOptions, known: Subjects) -> bool:
    asked = {*known.scenarios[pair.scenario].asks, *(prop.name for prop in known.own_properties)}
    return not options.props or bool(asked & set(options.props))


def _only(one: Answer, props: tuple[str, ...]) -> Answer:
    if not props:
        return one
    rows = tuple(row for row in one.rows if row.property in props)
    told = {prop: told for prop, told in one.counterexamples.items() if prop in props}
    return Answer(one.pair, rows, told)


def _violated(told: Iterable[Answer]) -> Iterator[Row]:
    for one in told:
        for row in one.rows:
            if row.verdict == "violated":
                yield row


def _print(told: list[Answer], options: CheckOptions, known: Subjects) -> None:
    if options.json:
        for one in told:
            for row in one.rows:
                paper.dump(row.as_dict())
        return
    designs = list(dict.fromkeys(one.pair.design for one in told))
    if len(designs) > 1:
        board.show_matrix(told, known)
        return
    board.show_design(told, known)
    for prop in options.props:
        rows = [row for row in _violated(told) if row.property == prop]
        if rows:
            _show_nearest(min(rows, key=lambda row: row.steps or 0), options, known)


def _show_nearest(row: Row, options: CheckOptions, known: Subjects) -> None:
    pair = Pair(row.design, row.scenario, known.source, True, options.states_max)
    told = answer(pair).counterexamples[row.property]
    columns.show(row.design, row.scenario, told, known.properties[row.property].says)


def _write_page(told: list[Answer], file: str, known: Subjects) -> None:
    from memreap.proof.page import page  # noqa: PLC0415

    text = page(told, known)
    try:
        with open(file, "w", encoding="utf-8") as out:
            out.write(text)
    except OSError as error:
        raise UsageError(f"cannot write {file}: {error.strerror}") from error
    print(f"memreap: written: {file}", file=sys.stderr)
