"""The bugs of the real kernel, looked for without their fix and with it.

Which they are stands in ``mm.bugs``; only the looking lives here.
"""

from collections.abc import Iterator
from concurrent.futures import Executor
from dataclasses import asdict, dataclass
from typing import Any

from memreap.check.counterexample import Counterexample, counterexample
from memreap.mm.bugs import BUGS
from memreap.proof.matrix import found_in


@dataclass(frozen=True, slots=True)
class Hunt:
    """What was found. ``steps``: of a shortest way to the bug, None where there was none."""

    commit: str
    before: str
    after: str
    steps: int | None
    is_gone: bool
    states_before: int
    states_after: int
    told: Counterexample | None

    def as_dict(self) -> dict[str, Any]:
        """As JSON."""
        bug = BUGS[self.commit]
        more = {"cve": bug.cve, "what": bug.what, "property": bug.prop}
        return {**asdict(self), **more, "scenario": bug.scenario.name, "needs": bug.needs}


def hunt(commit: str) -> Hunt:
    """Look for one bug. Runs in a worker."""
    bug = BUGS[commit]
    before = found_in(bug.before, bug.scenario)
    after = found_in(bug.after, bug.scenario)
    broken = before.broken.get(bug.prop)
    return Hunt(
        commit,
        bug.before.name,
        bug.after.name,
        before.steps(broken) if broken else None,
        bug.prop not in after.broken,
        before.states,
        after.states,
        counterexample(before, broken) if broken else None,
    )


def hunts(executor: Executor | None = None) -> Iterator[Hunt]:
    """Every bug's, in the order of their table."""
    yield from (executor.map if executor else map)(hunt, BUGS)
