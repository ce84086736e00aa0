"""The life of a domain as a picture, drawn from its table.

Only the drawing lives here; docs/domain.md shows it, and a test holds the two together.
"""

from memreap.decide.domain import TRANSITIONS, Phase


def diagram() -> str:
    """A mermaid state diagram: an arrow for each pair of phases, with every cause."""
    causes: dict[tuple[Phase, Phase], list[str]] = {}
    for (start, cause), end in TRANSITIONS.items():
        causes.setdefault((start, end), []).append(cause.value)
    arrows = [f"    {a} --> {b}: {' / '.join(why)}" for (a, b), why in causes.items()]
    return "\n".join(["stateDiagram-v2", f"    [*] --> {Phase.CALM}", *arrows, ""])


if __name__ == "__main__":
    print(diagram(), end="")
