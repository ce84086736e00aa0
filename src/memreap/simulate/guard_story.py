"""``python -m memreap.simulate.guard_story SEED``: one run of the guard, told; shrunk if it failed.

Only the telling lives here.
"""

import sys

from memreap.simulate.choices import shrunk
from memreap.simulate.guard_machine import BEGIN_S
from memreap.simulate.guard_trial import Finding, run


def tell(finding: Finding) -> list[str]:
    """Options, what happened, and what came of it."""
    lines = [f"{name}: {value}" for name, value in finding.options.as_dict().items()]
    lines += [f"{at_s - BEGIN_S:10.4f} s  {line}" for at_s, line in finding.story]
    outcome = f"law {finding.law}: {finding.broken}" if finding.broken else "no law was broken"
    return [*lines, outcome]


def main(argv: list[str]) -> int:
    """``argv``: a seed. 0: no law was broken; 1: one was; 2: no seed."""
    if len(argv) != 1 or not argv[0].isdecimal():
        print(__doc__, file=sys.stderr)
        return 2
    finding = run(int(argv[0]))
    if finding.broken:
        small = shrunk(finding.choices, lambda made: run(replay=made).law == finding.law)
        print(f"seed {argv[0]} shrunk to {len(small)} choices: {small}")
        finding = run(replay=small)
    for line in tell(finding):
        print(line)
    return 1 if finding.broken else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
