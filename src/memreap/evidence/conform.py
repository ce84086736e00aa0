"""``memreap trace conform``: is the order of events in a trace one that the model allows?

What is taken for what stands in ``alphabet`` (operations and events), ``scene``, ``actors`` and
``reapers`` (who does what), ``subject`` and ``acts`` (which events count), ``language`` (what it is
to be allowed) and ``order`` (what clocks leave open).

What cannot be seen this way:
1. That something should have happened. A trace may stop anywhere.
2. What no event tells of: when MMF_OOM_SKIP is set and read, when references are dropped, how long
   exit_aio takes. Any time that fits will do.
3. Which page is which, and whether reapers begin at the other end. Reaper and exit path may unmap
   while they walk, a reaper only if there was a page left when it came.
4. That a writer who waits keeps new readers out: the model's lock does not.
5. What other tasks do that were not traced: they only make others wait.
6. What is done to the mm once it is torn down, outside of process_mrelease and by nobody of the
   victim's: its memory may be another one's by then.
"""

from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

from memreap.evidence.cast import Assumed, Cast
from memreap.evidence.language import Followed, Language, TooLargeError, follow
from memreap.evidence.reading import Kill, kill
from memreap.evidence.trace import Trace, TraceError, load
from memreap.evidence.verdict import Verdict, refusal, tell
from memreap.evidence.watched import model
from memreap.linux.procfs import printable
from memreap.mm.designs import DESIGNS
from memreap.mm.kernel import Kernel
from memreap.printing import Paper

EXIT_CONFORMS, EXIT_DOES_NOT, EXIT_NO_TRACE = 0, 1, 2
COLUMNS = (("file", False), ("victim", False), ("events", True), ("verdict", False))
LANGUAGES_KEPT = 64


class UsageError(ValueError):
    """What was asked for cannot be; the message says why."""


@dataclass(frozen=True, slots=True)
class ConformOptions:
    """The command line. ``strict``: nothing may be assumed that no event tells of."""

    files: tuple[str, ...]
    design: str = Kernel.name
    strict: bool = False
    json: bool = False


def conform(options: ConformOptions, paper: Paper) -> int:
    """Judge each file; the exit code. Raises UsageError."""
    if options.design not in DESIGNS:
        raise UsageError(f"no design {options.design!r}; there are: {', '.join(DESIGNS)}")
    judged: list[tuple[str, str, Verdict]] = []
    code = EXIT_CONFORMS
    for path in options.files:
        try:
            trace = load(path)
        except TraceError as error:
            paper.err(str(error))
            code = EXIT_NO_TRACE
            continue
        verdict = judge(trace, DESIGNS[options.design], strict=options.strict)
        victim = f"{printable(trace.victim.comm)} ({trace.victim.pid})"
        judged.append((path, victim, verdict))
        if options.json:
            paper.dump(as_dict(path, trace, verdict))
    if not options.json:
        _show(judged, paper)
    if any(verdict.refusal for *_, verdict in judged):
        code = EXIT_DOES_NOT
    elif any(verdict.unknown for *_, verdict in judged):
        code = EXIT_NO_TRACE
    return paper.finish(code)


def judge(trace: Trace, kernel: type[Kernel] = Kernel, *, strict: bool = False) -> Verdict:
    """Whether some run of the model shows what was traced."""
    if trace.lost:
        return Verdict(kernel.name, unknown=f"{trace.lost} events were lost")
    try:
        read = kill(trace)
        if not read.lines:
            return Verdict(kernel.name, unknown="nothing in it is about the victim")
        return _judge(trace, read, kernel, strict)
    except (KeyError, TypeError, ValueError) as error:
        return Verdict(kernel.name, unknown=f"an event lacks or garbles {error}")
    except TooLargeError as error:
        return Verdict(kernel.name, unknown=str(error))


def _judge(trace: Trace, read: Kill, kernel: type[Kernel], strict: bool) -> Verdict:
    """With as few assumptions as will do; refused, with those that lead furthest."""
    best: tuple[frozenset[Assumed], Followed, Language] | None = None
    for assumed in _assumptions(() if strict else read.may_assume):
        language = _language(kernel, read.assuming(assumed))
        followed = follow(language, read.lines)
        if best is None or _further(followed, best[1]):
            best = assumed, followed, language
        if followed.refused is None:
            break
    assert best is not None
    assumed, followed, language = best
    refused = None
    if followed.refused is not None:
        refused = refusal(trace, read, language, followed.refused, followed.states)
    return Verdict(
        kernel.name,
        len(read.lines),
        len(language),
        tuple(one for one in Assumed if one in assumed),
        followed.swaps and refused is None,
        refused,
    )


def _assumptions(may: tuple[Assumed, ...]) -> list[frozenset[Assumed]]:
    """All that may be assumed, the fewest first."""
    return [frozenset(some) for n in range(len(may) + 1) for some in combinations(may, n)]


def _further(one: Followed, other: Followed) -> bool:
    return other.refused is not None and (one.refused is None or one.refused > other.refused)


_languages: dict[tuple[type[Kernel], Cast], Language] = {}


def _language(kernel: type[Kernel], cast: Cast) -> Language:
    """Of kills of one kind; a few are kept, with all that was found out of them."""
    known = _languages.pop((kernel, cast), None) or Language(model(kernel, cast), cast.hidden)
    if len(_languages) >= LANGUAGES_KEPT:
        del _languages[next(iter(_languages))]
    _languages[kernel, cast] = known
    return known


def as_dict(path: str, trace: Trace, verdict: Verdict) -> dict[str, Any]:
    """As JSON."""
    told: dict[str, Any] = {"file": path, "kernel": trace.kernel, "victim": trace.victim.pid}
    told |= {"conforms": verdict.conforms} | asdict(verdict)
    if verdict.refusal:
        event = trace.events[verdict.refusal.step.number]
        told["refusal"] |= {"event": event._asdict()}
    return told


def _show(judged: list[tuple[str, str, Verdict]], paper: Paper) -> None:
    rows = [(path, victim, str(verdict.events), str(verdict)) for path, victim, verdict in judged]
    if rows:
        paper.show(COLUMNS, rows)
    for path, _, verdict in judged:
        if verdict.refusal:
            tell(path, verdict, paper)
