"""``memreap explain``: one incident, as a person would tell it who has seen it all."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from memreap import size
from memreap.linux.procfs import PAGE_SIZE_BYTES
from memreap.records import schema
from memreap.records.archive import Archive, NoArchiveError
from memreap.records.turn import Turn, figure, held_bytes, pid_of, reasons
from memreap.records.words import clipped, count, usage, whom
from memreap.telling import paper
from memreap.telling.incidents import when
from memreap.telling.story import Death, Story

SHOWN_MAX, AGAIN_SHOWN_MAX = 10, 3
PROTECTED_SHOWN_MAX = 5
TIMELINE_MAX = 60
EVIDENCE_MAX = 600  # characters of what the kernel did to one victim
KINDS = {
    "system": "the machine's memory",
    "cgroup": "a cgroup's memory",
    "node": "a NUMA node's memory",
    "tree": "the budget of a process tree",
    "own": "memory for one user's processes",
}
COLUMNS = (
    ("", False),
    ("candidate", False),
    ("user", False),
    ("holds", True),
    ("swap", True),
    ("adj", True),
    ("score", True),
)
FIGURES = {
    "available_bytes": ("available", True),
    "swap_free_bytes": ("free swap", True),
    "tmpfs_bytes": ("in tmpfs and shared memory", True),
    "zram_bytes": ("taken by zram", True),
    "growth_bytes_per_s": ("growing by", True),
    "stall_share": ("stalled", False),
}

WORTH_TELLING = ("tmpfs_bytes", "zram_bytes")  # only where there is any


@dataclass(frozen=True, slots=True)
class ExplainOptions:
    """The command line."""

    id: int | None = None
    json: bool = False
    database: str = schema.PATH


def explain(options: ExplainOptions) -> int:
    """Tell one incident; the last one if none is named."""
    try:
        archive = Archive(options.database)
        incident = archive.one(options.id)
        archive.close()
    except NoArchiveError as error:
        paper.err(str(error))
        return paper.EXIT_NO_DATABASE
    if incident is None:
        which = "no incidents recorded yet" if options.id is None else f"no incident {options.id}"
        paper.err(f"{which}, looked in {archive.path}")
        return paper.EXIT_NO_DATABASE
    if options.json:
        paper.dump(incident.as_dict())
    else:
        _tell(Story.of(incident))
    return paper.finish(paper.EXIT_OK)


def _tell(story: Story) -> None:
    incident = story.incident
    _prose(f"Incident {incident.id}, {when(incident.began_wall_s)}: {clipped(incident.domain)}.")
    _prose(_what_ran_out(story))
    if note := _note(story):
        _prose(note)
    for number, death in enumerate(story.deaths):
        if number:
            _prose(_why_another(story.deaths[number - 1], death))
        _decision(death, SHOWN_MAX if number == 0 else AGAIN_SHOWN_MAX)
        _prose(_what_came(death))
        _prose(_what_the_kernel_did(death, story.incident.evidence))
    for turn in story.helpless[:1]:
        _helpless(turn, len(story.helpless))
    if story.shared:
        told = (f"{whom(t['victim'])} ({t['reason']})" for t in story.shared if t.get("victim"))
        victims = ", ".join(list(dict.fromkeys(told))[:5])
        _prose(f"It waited for {victims}: the memory was held here too.")
    _timeline(story)
    if text := _remains(story):
        _prose(text)
    _prose(_end(story))


def _prose(text: str) -> None:
    if text:
        for row in paper.fold(text):
            paper.out(row)
        paper.out()


def _what_ran_out(story: Story) -> str:
    turns, incident = story.incident.turns, story.incident
    first = turns[0] if turns else None
    what = KINDS.get(incident.kind, "memory")
    if first is None:
        return f"What ran out was {what}; its turns were not recorded."
    share = first["usage_bytes"] / first["limit_bytes"] if first["limit_bytes"] else 0.0
    crossed = first["usage_bytes"] >= first["limit_bytes"]
    how = "over its line" if crossed else "under pressure below its line"
    text = f"What ran out was {what}: {usage(first)} ({share:.1%}), {how}"
    told = _figures(next((t for t in turns if t.get("figures")), first))
    text += f"; {told}." if told else "."
    if incident.usage_bytes > first["usage_bytes"]:
        text += f" The most that was read was {size.show(incident.usage_bytes)}."
    if first.get("reason"):
        text += f" Why then: {clipped(first['reason'])}."
    return text


def _figures(turn: Turn) -> str:
    told = []
    for name, (word, is_bytes) in FIGURES.items():
        value = figure(turn, name)
        if value is None or (name in WORTH_TELLING and not value):
            continue
        per_s = " a second" if name.endswith("_per_s") else ""
        told.append(f"{word} {size.show(int(value)) if is_bytes else f'{value:.0%}'}{per_s}")
    return ", ".join(told)


def _note(story: Story) -> str:
    match story.state:
        case "dry run":
            return "A dry run: everything was decided as it would have been, nobody was signalled."
        case "goes on":
            return "It goes on: what follows is what is known so far."
        case "unfinished":
            return (
                "Its end is not known: the guard ended before the pressure did, or could not "
                "write it down."
            )
    return ""


def _decision(death: Death, shown: int) -> None:
    chosen = death.chosen
    choice = (chosen or {}).get("choice")
    if not choice:
        _prose(f"{whom(death.victim)} was chosen; the comparison was not recorded.")
        return
    _prose(_why_this_one(death, choice))
    ranked, pid = choice["candidates"], pid_of(death.victim)
    eligible = [r for r in ranked if r.get("score_pages") is not None]
    paper.show(COLUMNS, [_row(r, ">" if pid_of(r) == pid else "") for r in eligible[:shown]])
    if rest := _rest(eligible[shown:], choice):
        paper.out(rest)
    paper.out()
    if shown == SHOWN_MAX:  # the same ones again are not told again
        _protected(ranked)


def _why_this_one(death: Death, choice: Turn) -> str:
    ranked, pid = choice["candidates"], pid_of(death.victim)
    eligible = [r for r in ranked if r.get("score_pages") is not None]
    number = len(eligible) + int(choice.get("others") or 0)
    own = next((r for r in eligible if pid_of(r) == pid), None)
    second = next((r for r in eligible if pid_of(r) != pid), None)
    text = f"{whom(death.victim)} was chosen"
    if number <= 1:
        text += ": it was the only candidate"
    elif own and second and own.get("tier") == "prefer" != second.get("tier"):
        text += f" out of {number:,}: the configuration prefers it"
    elif own and second and second.get("tier") == "avoid" != own.get("tier"):
        text += f" out of {number:,}: the configuration avoids {whom(second)}"
    else:
        text += f": it had the highest badness of {number:,}"
        if own and second and second["score_pages"] > 0:
            ratio = own["score_pages"] / second["score_pages"]
            if ratio >= 1.05:
                text += f", {ratio:.3g} times that of {whom(second)}"
    if death.victim.get("oom_score_adj"):
        text += f" (its oom_score_adj is {death.victim['oom_score_adj']})"
    if death.victim.get("crowd"):
        text += (
            ". They are a crowd, of one name, user and cgroup, and came at once: they die as one"
        )
    text += _origin(death.victim)
    return text + _reading(choice)


def _origin(victim: Turn) -> str:
    unit, command = victim.get("unit"), victim.get("command")
    where = f" It belonged to {clipped(unit, 100)}." if unit else ""
    ran = f" Its command line: {clipped(command, 200)}" if command else ""
    return f".{where}{ran}" + "." * bool(ran)


def _reading(choice: Turn) -> str:
    took_s, age_s = choice.get("read_s"), choice.get("age_s")
    told = []
    if took_s is not None:
        told.append(f"Reading everyone took {size.seconds(took_s)}.")
    if age_s is not None:
        told.append(f"What had been read was {size.seconds(age_s)} old at the decision.")
    return "".join(f" {sentence}" for sentence in told)


def _row(ranked: Turn, mark: str = "") -> tuple[str, ...]:
    score, swap = ranked.get("score_pages"), ranked.get("swap_bytes") or 0
    tier = ranked.get("tier")
    shown = "-" if score is None else _score(score)
    return (
        mark,
        whom(ranked) + (f" [{tier}]" if tier in ("prefer", "avoid") else ""),
        clipped(ranked.get("user") or ranked.get("uid", ""), 32),
        size.show(held_bytes(ranked)),
        size.show(swap) if swap else "-",
        str(ranked.get("oom_score_adj", 0)),
        shown,
    )


def _score(pages: int) -> str:
    """Badness is in pages: as bytes it can be compared with what is held."""
    return size.show(int(pages) * PAGE_SIZE_BYTES)


def _rest(unshown: list[Turn], choice: Turn) -> str:
    number = len(unshown) + int(choice.get("others") or 0)
    held = sum(map(held_bytes, unshown)) + int(choice.get("others_bytes") or 0)
    together = " together" if number > 1 else ""
    if not number:
        return ""
    return f"and {count(number, 'other')} holding {size.show(held)}{together}"


def _protected(ranked: list[Turn]) -> None:
    barred = [r for r in ranked if r.get("score_pages") is None]
    if not barred:
        return
    barred.sort(key=held_bytes, reverse=True)
    told = [
        f"{whom(r)}, {size.show(held_bytes(r))}: {clipped(r.get('why_not') or 'protected', 100)}"
        for r in barred[:PROTECTED_SHOWN_MAX]
    ]
    rest = barred[PROTECTED_SHOWN_MAX:]
    if rest:
        held = size.show(sum(map(held_bytes, rest)))
        why = ", ".join(clipped(reason, 60) for reason in reasons(rest)[:3])
        told.append(f"and {count(len(rest), 'other')} holding {held} together ({why})")
    paper.out("Not to be killed:")
    for row in told:
        for line in paper.fold(row, indent="  "):
            paper.out(line)
    paper.out()


def _what_came(death: Death) -> str:
    if death.is_dry:
        return f"{whom(death.victim)} would have been killed, and was left alone."
    text = ""
    if death.asked_s is not None:
        text += f"It was asked to go (SIGTERM) {_after(death, death.asked_s)}. "
    match death.outcome:
        case "left on SIGTERM":
            text += f"It left by itself {size.seconds(death.seconds)} after the decision"
        case "exited" | "reaped":
            back = size.show(death.released_bytes) if death.released_bytes else "its memory"
            text += f"{back} came back {size.seconds(death.seconds)} after the decision"
            text += _rate(death)
        case "stuck":
            text += "It was killed, but its memory did not come back in time"
        case "refused":
            text += "It was not killed"
        case "skipped":
            text += "It was passed over"
        case "spared":
            text += "It was spared: the pressure had passed before its time was over"
        case other:
            text += f"It was {other}; what became of it was not recorded"
    if death.born:
        born = count(death.born, "process", "processes")
        text += f"; {born} born meanwhile died as well"
    why = death.reason or next((str(o["reason"]) for o in death.outcomes if o.get("reason")), "")
    return text + (f" ({clipped(why)})" if why else "") + "."


def _what_the_kernel_did(death: Death, evidence: list[dict[str, Any]]) -> str:
    """By its tracepoints, where a guard could record them."""
    pids = {int(outcome["pid"]) for outcome in death.outcomes}
    told = []
    for one in evidence:
        if int(one["pid"]) in pids and one.get("summary"):
            lost = f" ({one['lost']} events were lost)" if one.get("lost") else ""
            told.append(f"What the kernel did to {one['pid']}: {'; '.join(one['summary'])}{lost}.")
    return " ".join(clipped(text, EVIDENCE_MAX) for text in told)


def _after(death: Death, at_s: float) -> str:
    return f"{size.seconds(max(0.0, at_s - death.chosen_s))} after the decision"


def _rate(death: Death) -> str:
    if not death.released_bytes or not death.seconds:
        return ""
    return f", {size.show(int(death.released_bytes / death.seconds))} a second"


def _why_another(before: Death, death: Death) -> str:
    who = whom(death.victim)
    if before.ended_as == "released":
        left = usage(death.chosen) if death.chosen else "still over"
        return f"That was not enough: {left}. So {who} had to be next."
    if before.is_dry:
        return f"That was a dry run. {who} was next."
    why = clipped(before.reason) or before.outcome
    return f"From {whom(before.victim)} nothing more was to be expected ({why}). So {who} was next."


def _helpless(turn: Turn, times: int) -> None:
    again = f" ({times} times)" if times > 1 else ""
    why = f": {clipped(turn['reason'])}" if turn.get("reason") else ""
    _prose(f"Nobody could be killed{again}{why}.")
    _protected((turn.get("choice") or {}).get("candidates") or [])


def _timeline(story: Story) -> None:
    rows = list(_events(story))
    if not rows:
        return
    paper.out("Since the pressure was seen:")
    for at_s, text in rows[:TIMELINE_MAX]:
        paper.out(f"  {(at_s - story.began_s) * 1000:10.1f} ms  {text}")
    if len(rows) > TIMELINE_MAX:
        paper.out(f"  ... and {len(rows) - TIMELINE_MAX} more turns")
    paper.out()


def _events(story: Story) -> Iterator[tuple[float, str]]:
    for turn in story.incident.turns:
        what, victim = str(turn["what"]), turn.get("victim")
        if what == "outcome":
            outcome = turn.get("outcome") or {}
            who = f"{clipped(outcome.get('comm') or '?', 64)} (pid {outcome.get('pid')})"
            what = f"{clipped(outcome.get('outcome'), 20)} {who}"
        elif victim:
            what = f"{clipped(what, 20)} {whom(victim)}"
        reason = f": {clipped(turn['reason'], 120)}" if turn.get("reason") else ""
        yield turn["at_s"], f"{what}{reason}, {usage(turn)}"


def _remains(story: Story) -> str:
    hanging = [o for death in story.deaths for o in death.hanging]
    if not hanging:
        return ""
    named = ", ".join(f"{clipped(o.get('comm') or '?', 64)} (pid {o.get('pid')})" for o in hanging)
    its = "its" if len(hanging) == 1 else "their"
    return f"{named} hung in the kernel when last seen, {its} memory released."


def _end(story: Story) -> str:
    took_s = story.incident.seconds_to_relief
    if took_s is None:
        lives = story.incident.guard_lives
        return "It goes on." if lives else "It was not relieved, as far as is known."
    relieved = [turn for turn in story.incident.turns if turn["what"] == "relieved"]
    why = relieved[-1].get("reason") if relieved else None
    left = f", at {usage(relieved[-1])}" if relieved and not why else f": {why}" if why else ""
    if story.incident.dry_run:
        return f"The pressure passed by itself after {size.seconds(took_s)}{left}."
    if not story.deaths and not story.shared:
        return f"It passed by itself after {size.seconds(took_s)}{left}."
    return f"It was relieved {size.seconds(took_s)} after the pressure was seen{left}."
