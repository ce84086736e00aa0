"""Who is chosen, and why the others are not."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from memreap.decide.badness import as_one, badness_pages, choose, lead_pages
from memreap.decide.events import Candidate, Identity, Tier

PAGES = st.integers(0, 1 << 24)


@st.composite
def crowds(draw: st.DrawFn) -> tuple[Candidate, ...]:
    pids = draw(st.lists(st.integers(1, 50), unique=True, max_size=12))
    return tuple(
        Candidate(
            members=(Identity(pid, draw(st.integers(0, 3))),),
            name=f"p{pid}",
            rss_pages=draw(st.one_of(st.integers(0, 3), PAGES)),
            swap_pages=draw(st.integers(0, 3)),
            page_table_pages=draw(st.integers(0, 3)),
            oom_score_adj=draw(st.one_of(st.just(-1000), st.just(0), st.integers(-1000, 1000))),
            has_mm=draw(st.booleans()),
            is_kernel_thread=draw(st.booleans()),
        )
        for pid in pids
    )


IDENTITIES = st.frozensets(st.builds(Identity, st.integers(1, 50), st.integers(0, 3)), max_size=20)


def oom_kill(
    tasks: tuple[Candidate, ...], totalpages: int, spared: frozenset[Identity]
) -> Candidate | None:
    """Choose as select_bad_process does: one pass, an equal score replaces."""
    chosen, chosen_points = None, -(1 << 62)
    for task in tasks:
        if task.members[0].pid == 1 or task.is_kernel_thread or task.members[0] in spared:
            continue
        if not task.has_mm or task.oom_score_adj == -1000:
            continue
        points = task.rss_pages + task.swap_pages + task.page_table_pages
        points += task.oom_score_adj * (totalpages // 1000)
        if points < chosen_points:
            continue
        chosen, chosen_points = task, points
    return chosen


@given(crowds(), PAGES, st.data())
def test_who_leads_is_overtaken_only_by_who_grows_by_more(
    crowd: tuple[Candidate, ...], totalpages: int, data: st.DataObject
) -> None:
    choice = choose(crowd, totalpages)
    best, lead = choice.best, lead_pages(choice)
    assert lead >= 0
    if best is None:
        assert lead == 0
        return
    at = data.draw(st.integers(0, len(crowd) - 1))

    def overtakes(pages: int) -> bool:
        grown = [replace(c, rss_pages=c.rss_pages + pages * (i == at)) for i, c in enumerate(crowd)]
        new = choose(grown, totalpages).best
        assert new is not None
        return new.identity != best.identity

    assert lead < 1 or not overtakes(data.draw(st.integers(0, lead - 1)))


def test_the_lead_is_before_those_who_could_be_chosen_instead() -> None:
    def one(pid: int, pages: int, **more: object) -> Candidate:
        return Candidate((Identity(pid, 0),), f"p{pid}", rss_pages=pages, **more)  # type: ignore[arg-type]

    assert lead_pages(choose([one(2, 700)], 10_000)) == 700, "before nobody, by all it holds"
    assert lead_pages(choose([one(2, 700), one(3, 300), one(4, 500)], 10_000)) == 200
    assert lead_pages(choose([one(2, 700), one(3, 900, barred="protected")], 10_000)) == 700
    assert lead_pages(choose([one(2, 700), one(3, 600, oom_score_adj=-50)], 10_000)) == 600
    preferred = [one(2, 700), one(3, 300, tier=Tier.PREFER), one(4, 250, tier=Tier.PREFER)]
    assert lead_pages(choose(preferred, 10_000)) == 50
    avoided = [one(2, 700), one(3, 900, tier=Tier.AVOID)]
    assert lead_pages(choose(avoided, 10_000)) == 700
    assert lead_pages(choose([], 10_000)) == 0


@given(crowds(), PAGES, IDENTITIES, IDENTITIES)
def test_best_is_the_kernels(
    crowd: tuple[Candidate, ...],
    totalpages: int,
    protected: frozenset[Identity],
    skipped: frozenset[Identity],
) -> None:
    choice = choose(crowd, totalpages, protected, skipped)
    assert choice.best == oom_kill(crowd, totalpages, protected | skipped)


@given(crowds(), PAGES, IDENTITIES)
def test_everyone_is_explained(
    crowd: tuple[Candidate, ...], totalpages: int, protected: frozenset[Identity]
) -> None:
    ranked = choose(crowd, totalpages, protected).ranked
    assert sorted(r.candidate.members for r in ranked) == sorted(c.members for c in crowd)
    assert all((r.score_pages is None) == bool(r.why_not) for r in ranked)
    scores = [r.score_pages for r in ranked if r.score_pages is not None]
    assert scores == sorted(scores, reverse=True)
    for r in ranked:
        if r.score_pages is not None:
            assert r.score_pages == badness_pages(r.candidate, totalpages)
            assert r.candidate.identity not in protected


def test_adj_is_a_share_of_the_total() -> None:
    small = Candidate((Identity(10, 1),), "small", rss_pages=100, oom_score_adj=500)
    large = Candidate((Identity(11, 1),), "large", rss_pages=400)
    assert choose([small, large], 1000).best == small
    assert choose([small, large], 0).best == large


def test_ties_go_to_the_later_task() -> None:
    twins = [Candidate((Identity(pid, 1),), "twin", rss_pages=7) for pid in (10, 11, 12)]
    assert choose(twins, 0).best == twins[2]


@given(crowds(), IDENTITIES)
def test_a_group_holds_only_whom_one_may_kill(
    crowd: tuple[Candidate, ...], protected: frozenset[Identity]
) -> None:
    groups = as_one(crowd, protected, "all")
    best = choose(groups, 0, protected).best
    single = choose(crowd, 0, protected)
    eligible = {r.candidate.identity for r in single.ranked if r.score_pages is not None}
    assert set(best.members if best else ()) == eligible
    assert sum(len(g.members) for g in groups) == len(crowd)


TOTAL = 10_000


def one(pid: int, pages: int, tier: Tier = Tier.NORMAL, barred: str = "") -> Candidate:
    return Candidate((Identity(pid, 1),), f"p{pid}", rss_pages=pages, tier=tier, barred=barred)


def best(*crowd: Candidate, others_pages: int = 0) -> Candidate | None:
    return choose(crowd, TOTAL, others_pages=others_pages).best


def test_policy_comes_before_badness() -> None:
    preferred, normal, avoided = one(2, 100, Tier.PREFER), one(3, 900), one(4, 5000, Tier.AVOID)
    choice = choose([avoided, normal, preferred], TOTAL)
    assert [r.candidate for r in choice.ranked] == [preferred, normal, avoided]
    assert [r.tier for r in choice.ranked] == [Tier.PREFER, Tier.NORMAL, Tier.AVOID]


def test_a_preferred_dwarf_relieves_nothing() -> None:
    assert best(one(2, 99, Tier.PREFER), one(3, 900)) == one(3, 900)
    assert best(one(2, 100, Tier.PREFER), one(3, 900)) == one(2, 100, Tier.PREFER)


def test_one_who_is_avoided_dies_only_when_nobody_else_would_help() -> None:
    leak = one(2, 5000, Tier.AVOID)
    dwarfs = [one(pid, 99) for pid in range(10, 30)]
    assert best(leak, *dwarfs) == leak
    assert best(leak, *dwarfs, one(3, 100)) == one(3, 100)
    # All of them together hold more than it does: they die one by one.
    assert best(leak, *dwarfs, others_pages=5000) == dwarfs[-1]
    assert best(leak) == leak


def test_whom_policy_forbids_is_passed_over_with_its_reason() -> None:
    choice = choose([one(2, 900, barred="memreap itself"), one(3, 1)], TOTAL)
    assert choice.best == one(3, 1)
    assert [r.why_not for r in choice.ranked] == ["", "memreap itself"]


OTHERS = st.one_of(st.just(0), PAGES)


@given(crowds(), PAGES, st.lists(st.sampled_from(Tier), min_size=12, max_size=12), OTHERS)
def test_nobody_who_is_avoided_goes_before_one_who_would_help(
    crowd: tuple[Candidate, ...], totalpages: int, tiers: list[Tier], others_pages: int
) -> None:
    tiered = [replace(c, tier=tier) for c, tier in zip(crowd, tiers, strict=False)]
    choice = choose(tiered, totalpages, others_pages=others_pages)
    eligible = [r.candidate for r in choice.ranked if r.score_pages is not None]
    assert (choice.best is None) == (not eligible)
    if choice.best and choice.best.tier is Tier.AVOID:
        rest = [c.pages for c in eligible if c.tier is not Tier.AVOID]
        assert not rest or 100 * max(rest) < totalpages
        assert not rest or choice.best.pages > sum(rest) + others_pages


def test_a_group_is_as_dear_as_its_dearest_and_reaches_as_far_as_all() -> None:
    pair = (
        replace(one(2, 1, Tier.PREFER), domains=("a", "b")),
        replace(one(3, 2, Tier.AVOID), domains=("b", "c")),
    )
    (whole,) = as_one(pair, (), "all")
    assert (whole.tier, whole.domains) == (Tier.AVOID, ("b", "c", "a"))
