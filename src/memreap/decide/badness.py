"""Who is the best candidate: the kernel's ``oom_badness`` and ``oom_evaluate_task``. mm/oom_kill.c

Only the arithmetic of choosing lives here, with a reason for everyone who was passed over. What
policy wishes comes first, as long as it helps:

- One who is preferred leads only with DWARF_SHARE of the total or more: to kill a preferred dwarf
  would relieve nothing.
- One who is avoided comes last, unless nobody else would help: every other is a dwarf, and all of
  them together hold less than it does.
"""

from collections.abc import Collection, Iterable

from memreap.decide.events import Candidate, Choice, Identity, Ranked, Tier

OOM_SCORE_ADJ_MIN = -1000  # include/uapi/linux/oom.h
INIT_PID = 1
DWARF_SHARE = 0.01


def badness_pages(candidate: Candidate, totalpages: int) -> int:
    """Badness in pages: what the mm holds, shifted by a share of the domain's total."""
    # Divided first, as the kernel does: fewer than 1,000 pages in total give no shift at all.
    return candidate.pages + candidate.oom_score_adj * (totalpages // 1000)


def why_not(
    candidate: Candidate, protected: frozenset[Identity], skipped: frozenset[Identity]
) -> str:
    """Why this one must never be chosen; empty when it may be."""
    reasons = (
        (min(candidate.members).pid == INIT_PID, "init"),
        (candidate.is_kernel_thread, "kernel thread"),
        (bool(candidate.barred), candidate.barred),
        (not protected.isdisjoint(candidate.members), "protected"),
        (not skipped.isdisjoint(candidate.members), "skipped"),
        (not candidate.has_mm, "no mm"),
        (candidate.oom_score_adj == OOM_SCORE_ADJ_MIN, "oom_score_adj is -1000"),
    )
    for holds, reason in reasons:
        if holds:
            return reason
    return ""


def choose(
    candidates: Iterable[Candidate],
    totalpages: int,
    protected: Collection[Identity] = (),
    skipped: Collection[Identity] = (),
    *,
    others: int = 0,
    others_pages: int = 0,
) -> Choice:
    """Rank everyone; the best is the worst. Ties go to the later task, as in the kernel."""
    spared, passed_over = frozenset(protected), frozenset(skipped)
    judged = [(c, why_not(c, spared, passed_over)) for c in candidates]
    eligible = _ranked([c for c, reason in judged if not reason], totalpages, others_pages)
    barred = [Ranked(c, None, reason) for c, reason in judged if reason]
    # Sorting is stable: turned around afterwards, the later task leads among equals.
    ranked = sorted(eligible, key=lambda r: (r.tier, r.score_pages or 0))[::-1]
    best = ranked[0].candidate if ranked else None
    return Choice(best, (*ranked, *barred), others, others_pages)


def lead_pages(choice: Choice) -> int:
    """By how much the best candidate leads: until somebody grew by more, it stays the best.

    Before nobody, it leads by all that it holds. Who is below it by policy alone is no rival.
    """
    scores = [(r.tier, max(0, r.score_pages)) for r in choice.ranked if r.score_pages is not None]
    if not scores:
        return 0
    (tier, first), *rest = scores
    is_rivalled = bool(rest) and rest[0][0] is tier
    return first - (rest[0][1] if is_rivalled else 0)


def _ranked(eligible: list[Candidate], totalpages: int, others_pages: int) -> list[Ranked]:
    dwarf_pages = totalpages * DWARF_SHARE
    better_pages = [c.pages for c in eligible if c.tier is not Tier.AVOID]
    dwarfs_only = all(pages < dwarf_pages for pages in better_pages)
    rest_pages = sum(better_pages) + others_pages

    def tier(c: Candidate) -> Tier:
        if c.tier is Tier.PREFER and c.pages < dwarf_pages:
            return Tier.NORMAL
        if c.tier is Tier.AVOID and dwarfs_only and c.pages > rest_pages:
            return Tier.NORMAL
        return c.tier

    return [Ranked(c, badness_pages(c, totalpages), tier=tier(c)) for c in eligible]


def as_one(
    candidates: Iterable[Candidate], protected: Collection[Identity], name: str
) -> tuple[Candidate, ...]:
    """Everyone eligible as one candidate that dies together, as ``memory.oom.group`` does.

    Those whom nothing may kill stay candidates of their own, so that the record names them.
    """
    spared = frozenset(protected)
    judged = [(c, why_not(c, spared, frozenset())) for c in candidates]
    group = [c for c, reason in judged if not reason]
    barred = tuple(c for c, reason in judged if reason)
    if not group:
        return barred
    # The largest stands for the group: its name is the one that explains the incident.
    group.sort(key=lambda c: c.pages, reverse=True)
    whole = Candidate(
        members=tuple(member for c in group for member in c.members),
        name=name,
        rss_pages=sum(c.rss_pages for c in group),
        swap_pages=sum(c.swap_pages for c in group),
        page_table_pages=sum(c.page_table_pages for c in group),
        tier=min(c.tier for c in group),
        domains=tuple(dict.fromkeys(domain for c in group for domain in c.domains)),
    )
    return (whole, *barred)
