"""The whole matrix as one HTML page that needs nothing else: no server, no network.

Only what goes into the page lives here: values, each string and each step once. ``page.html``,
``page.css``, ``page.js`` and ``chart.js`` are how it looks; the browser draws it. Whatever a user
named stays text all the way: it travels as JSON and becomes text nodes, never markup.
"""

import base64
import hashlib
import inspect
import json
from collections.abc import Iterable
from importlib.resources import files
from string import Template
from typing import Any

from memreap.check.counterexample import Counterexample, Step
from memreap.mm.kernel import Kernel
from memreap.proof.bring import Subjects
from memreap.proof.columns import verdict
from memreap.proof.matrix import Answer

NOTHING = -1  # where a number stands for a string, or for a run


class _Once:
    """Values, each once, by number."""

    def __init__(self) -> None:
        self.numbers: dict[Any, int] = {}

    def number(self, value: Any) -> int:
        """Where a value stands."""
        return self.numbers.setdefault(value, len(self.numbers))


def page(answers: Iterable[Answer], known: Subjects) -> str:
    """The page. Needs the counterexamples with the answers, to show them."""
    style, script = _file("page.css"), _file("chart.js") + _file("page.js")
    policy = (
        f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)};"
        " img-src data:; base-uri 'none'; form-action 'none'"
    )
    return Template(_file("page.html")).substitute(
        policy=policy, style=style, script=script, data=embedded(data(answers, known))
    )


def embedded(value: Any) -> str:
    """JSON that cannot end the element it stands in, nor a line of a script."""
    shown = json.dumps(value, separators=(",", ":"))  # all ASCII: U+2028 is escaped
    for sign in "<>&":
        shown = shown.replace(sign, f"\\u{ord(sign):04x}")
    return shown


def data(answers: Iterable[Answer], known: Subjects) -> dict[str, Any]:
    """What the page shows. Rows and runs are lists of numbers, as ``page.js`` reads them."""
    told = list(answers)
    designs = _there(known.designs, (one.pair.design for one in told))
    scenarios = _there(known.scenarios, (one.pair.scenario for one in told))
    props = _there(known.properties, (row.property for one in told for row in one.rows))
    strings, steps = _Once(), _Once()
    rows: list[list[int]] = []
    runs: list[list[Any]] = []
    for one in told:
        for row in one.rows:
            run = one.counterexamples.get(row.property)
            rows.append(
                [
                    designs[row.design],
                    scenarios[row.scenario],
                    props[row.property],
                    strings.number(row.verdict),
                    row.states,
                    row.transitions,
                    NOTHING if row.steps is None else row.steps,
                    len(runs) if run else NOTHING,
                ]
            )
            if run:
                runs.append(_run(run, strings, steps))
    return {
        "designs": [_design(known.designs[name], name in known.own) for name in designs],
        "scenarios": [
            {"name": name, "says": known.scenarios[name].says, "cast": known.scenarios[name].cast}
            for name in scenarios
        ],
        "properties": [
            {
                "name": name,
                "short": known.properties[name].short,
                "says": known.properties[name].says,
            }
            for name in props
        ],
        "rows": rows,
        "runs": runs,
        "steps": [list(step) for step in steps.numbers],
        "strings": list(strings.numbers),
    }


def _there(known: Iterable[str], named: Iterable[str]) -> dict[str, int]:
    """What was asked of all that is known, in the order of what is known, with its number."""
    asked = set(named)
    return {name: number for number, name in enumerate(name for name in known if name in asked)}


def _design(kernel: type[Kernel], is_own: bool) -> dict[str, Any]:
    """Who and when are a class's own: a user's design is not by whom it was derived from."""
    own = vars(kernel)
    return {
        "name": kernel.name,
        "who": own.get("who", ""),
        "when": own.get("when", ""),
        "says": inspect.cleandoc(kernel.__doc__ or ""),
        "own": is_own,
    }


def _run(told: Counterexample, strings: _Once, steps: _Once) -> list[Any]:
    return [
        strings.number(verdict(told)),
        strings.number(told.why),
        [strings.number(task) for task in told.tasks],
        [steps.number(_step(step, strings)) for step in told.steps],
        [steps.number(_step(step, strings)) for step in told.cycle],
        [strings.number(line) for line in told.waiting],
    ]


def _step(step: Step, strings: _Once) -> tuple[Any, ...]:
    def maybe(value: str | None) -> int:
        return NOTHING if value is None else strings.number(value)

    return (
        strings.number(step.task),
        strings.number(step.operation),
        maybe(step.result),
        int(step.preempts),
        maybe(step.breaks),
        *(strings.number(s) for c in step.changes for s in (c.variable, c.now, c.was)),
    )


def _file(name: str) -> str:
    return files("memreap.proof").joinpath(name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """What the browser may run, and nothing besides, whoever gets something into the page."""
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
