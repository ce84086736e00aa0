"""Who is the best candidate: the kernel's ``oom_badness`` and ``oom_evaluate_task``. mm/oom_kill.c

Only the arithmetic of choosing lives here, with a reason for everyone who was passed over.
"""

from collections.abc import Collection, Iterable

from memreap.decide.events import Candidate, Choice, Identity, Ranked

OOM_SCORE_ADJ_MIN = -1000  # include/uapi/linux/oom.h
INIT_PID = 1


def badness_pages(candidate: Candidate, totalpages: int) -> int:
    """Badness in pages: what the mm holds, shifted by a share of the domain's total."""
    # Divided first, as the kernel does: fewer than 1,000 pages in total give no shift at all.
    return candidate.pages + candidate.oom_score_adj * (totalpages // 1000)


def why_not(
    candidate: Candidate, protected: Collection[Identity], skipped: Collection[Identity]
) -> str:
    """Why this one must never be chosen; empty when it may be."""
    reasons = (
        (any(member.pid == INIT_PID for member in candidate.members), "init"),
        (candidate.is_kernel_thread, "kernel thread"),
        (any(member in protected for member in candidate.members), "protected"),
        (any(member in skipped for member in candidate.members), "skipped"),
        (not candidate.has_mm, "no mm"),
        (candidate.oom_score_adj == OOM_SCORE_ADJ_MIN, "oom_score_adj is -1000"),
    )
    return next((reason for holds, reason in reasons if holds), "")


def choose(
    candidates: Iterable[Candidate],
    totalpages: int,
    protected: Collection[Identity] = (),
    skipped: Collection[Identity] = (),
) -> Choice:
    """Rank everyone; the best is the worst. Ties go to the later task, as in the kernel."""
    judged = [(c, why_not(c, protected, skipped)) for c in candidates]
    eligible = [Ranked(c, badness_pages(c, totalpages)) for c, reason in judged if not reason]
    barred = [Ranked(c, None, reason) for c, reason in judged if reason]
    # Sorting is stable: turned around afterwards, the later task leads among equals.
    ranked = sorted(eligible, key=lambda r: r.score_pages or 0)[::-1]
    return Choice(ranked[0].candidate if ranked else None, (*ranked, *barred))


def as_one(
    candidates: Iterable[Candidate], protected: Collection[Identity], name: str
) -> tuple[Candidate, ...]:
    """Everyone eligible as one candidate that dies together, as ``memory.oom.group`` does.

    Those whom nothing may kill stay candidates of their own, so that the record names them.
    """
    judged = [(c, why_not(c, protected, ())) for c in candidates]
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
    )
    return (whole, *barred)
