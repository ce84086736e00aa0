"""``memreap simulate``: what was asked on the command line, and what is printed.

Only the order of things lives here: ``sweep`` and ``frontier`` find out, ``board``, ``page``,
``plots`` and ``story`` show. Where it is printed is handed in.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from memreap.printing import Paper, progress
from memreap.simulate import board, costs, executors, frontier, plots, scenario, story, strategies
from memreap.simulate.costs import Costs, CostsError
from memreap.simulate.drawing import Drawing
from memreap.simulate.executors import NoExecutorError
from memreap.simulate.frontier import Row
from memreap.simulate.journal import Journal, JournalError
from memreap.simulate.scenario import Scenario, ScenarioError
from memreap.simulate.strategies import STRATEGIES, StrategyError
from memreap.simulate.sweep import LostError, Sweep
from memreap.simulate.trial import Job, Result

EXIT_OK, EXIT_USAGE, EXIT_NO_EXECUTOR, EXIT_INTERRUPTED = 0, 2, 3, 130
SEEDS = 20
STORY_STRATEGY = "guard-2"


BAD = (
    ScenarioError,
    StrategyError,
    CostsError,
    JournalError,
    executors.BadNameError,
    plots.NoPlotsError,
)


class UsageError(ValueError):
    """What was asked for cannot be; the message says why."""


@dataclass(frozen=True, slots=True)
class SimulateOptions:
    """The command line."""

    scenarios: tuple[str, ...] = ()
    strategies: tuple[str, ...] = ()
    seeds: int = SEEDS
    first_seed: int = 0
    costs: str | None = None
    executor: str = executors.PROCESSES
    jobs: int | None = None
    results: str | None = None
    resume: bool = False
    json: bool = False
    png: str | None = None
    svg: str | None = None
    html: str | None = None
    list_: bool = False
    one: int | None = None


@dataclass(frozen=True, slots=True)
class Asked:
    """The same, loaded and checked."""

    costs: Costs
    scenarios: dict[str, Scenario]
    strategies: tuple[str, ...]
    jobs: tuple[Job, ...]


def simulate(options: SimulateOptions, paper: Paper) -> int:
    """Do it; the exit code. Raises UsageError."""
    if options.list_:
        board.show_names(paper, as_json=options.json)
        return paper.finish(EXIT_OK)
    try:
        asked = _asked(options)
        if options.one is not None:
            return _tell(options.one, asked, paper)
        _check_files(options)
        return _sweep(options, asked, paper)
    except BAD as error:
        raise UsageError(str(error)) from error
    except NoExecutorError as error:
        paper.err(str(error))
        return paper.finish(EXIT_NO_EXECUTOR)


def _asked(options: SimulateOptions) -> Asked:
    if options.one is not None and not options.scenarios:
        raise UsageError("--one tells one trial: say of which SCENARIO")
    if options.resume and not options.results:
        raise UsageError("--resume goes on with a file: say which, with --results")
    names = dict.fromkeys(options.scenarios or scenario.names())
    scenarios = {name: scenario.load(name) for name in names}
    given = options.strategies or ((STORY_STRATEGY,) if options.one is not None else STRATEGIES)
    chosen = tuple(dict.fromkeys(strategies.strategy(name).name for name in given))
    return Asked(
        costs.load(options.costs) if options.costs else costs.calibrated(),
        scenarios,
        chosen,
        tuple(
            Job(name, one, seed)
            for seed in range(options.first_seed, options.first_seed + options.seeds)
            for name in scenarios
            for one in chosen
        ),
    )


def _tell(seed: int, asked: Asked, paper: Paper) -> int:
    for name, known in asked.scenarios.items():
        for one in asked.strategies:
            for line in story.tell(Job(name, one, seed), asked.costs, known):
                paper.out(line)
            paper.out()
    return paper.finish(EXIT_OK)


def _check_files(options: SimulateOptions) -> None:
    """That they can be written is better known before than after."""
    if options.png or options.svg:
        plots.check()
    for file in (options.png, options.svg, options.html):
        if file is None:
            continue
        path = Path(file)
        there = path if path.exists() else path.absolute().parent
        if path.is_dir() or not there.exists() or not os.access(there, os.W_OK):
            raise UsageError(f"cannot write {file}")


def _sweep(options: SimulateOptions, asked: Asked, paper: Paper) -> int:
    journal = Journal(options.results, asked.costs, asked.scenarios) if options.results else None
    done: dict[Job, Result] = {}
    try:
        if journal:
            journal.open(resume=options.resume)
            done |= journal.done
        team = executors.team(options.executor, options.jobs)
        _run(Sweep(asked.costs, asked.scenarios, team), asked.jobs, done, journal)
    except LostError as error:
        paper.err(f"{error}{_kept(options, asked, done)}")
        return paper.finish(EXIT_NO_EXECUTOR)
    except KeyboardInterrupt:
        paper.err(f"interrupted{_kept(options, asked, done)}")
        return paper.finish(EXIT_INTERRUPTED)
    finally:
        if journal:
            journal.close()
    _show(options, asked, [done[job] for job in asked.jobs], paper)
    return paper.finish(EXIT_OK)


def _run(
    sweep: Sweep, jobs: Iterable[Job], done: dict[Job, Result], journal: Journal | None
) -> None:
    """All that is not done yet."""
    every = list(jobs)
    todo = [job for job in every if job not in done]
    with (
        closing(sweep.run(todo)) as coming,
        progress("simulating", len(every), done=len(every) - len(todo)) as advance,
    ):
        for results in coming:
            if journal:
                journal.add(results)
            done.update((Job(one.scenario, one.strategy, one.seed), one) for one in results)
            advance(len(results))


def _kept(options: SimulateOptions, asked: Asked, done: dict[Job, Result]) -> str:
    if not options.results:
        return "; --results FILE would have kept what was done"
    there = sum(job in done for job in asked.jobs)
    return f": {there} of {len(asked.jobs)} are in {options.results}; --resume goes on"


def _show(options: SimulateOptions, asked: Asked, results: list[Result], paper: Paper) -> None:
    results.sort(key=lambda one: asked.strategies.index(one.strategy))
    results.sort(key=lambda one: list(asked.scenarios).index(one.scenario))
    rows, together = frontier.rows(results), frontier.together(results)
    says = {name: known.says for name, known in asked.scenarios.items()}
    for file, write in _writers(options, rows, together, says, asked.costs):
        try:
            write(file)
        except OSError as error:
            raise UsageError(f"cannot write {file}: {error.strerror}") from error
        paper.err(f"written: {file}")
    if options.json:
        for row in rows:
            paper.dump(row.as_dict())
        return
    board.show(rows, together, says, paper)


def _writers(
    options: SimulateOptions,
    rows: list[Row],
    together: list[Row],
    says: dict[str, str],
    used: Costs,
) -> Iterator[tuple[str, Callable[[str], object]]]:
    """Files that were asked for, and what writes them."""
    from memreap.simulate import chart  # noqa: PLC0415
    from memreap.simulate.page import page  # noqa: PLC0415

    def drawings() -> list[Drawing]:
        drawn = [chart.chart(one, name, says[name]) for name, one in board.grouped(rows).items()]
        return [*drawn, chart.together(together)] if len(drawn) > 1 else drawn

    if options.png:
        yield options.png, lambda file: plots.save(drawings(), file, "png")
    if options.svg:
        yield options.svg, lambda file: plots.save(drawings(), file, "svg")
    if options.html:
        text = page(rows, together, says, used)
        yield options.html, lambda file: Path(file).write_text(text, encoding="utf-8")
