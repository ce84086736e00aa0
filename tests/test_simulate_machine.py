"""Memory between events: who grows where, who stalls, what comes back; and what relief is."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memreap.simulate.costs import calibrated
from memreap.simulate.fit import sleeper
from memreap.simulate.loop import Loop
from memreap.simulate.machine import Machine
from memreap.simulate.setup import NodeSetup, ProcessSetup, Setup
from memreap.simulate.strategies import STRATEGIES
from memreap.simulate.trial import Job, Runs

MIB = 1 << 20
NODE = NodeSetup("node0", 1000 * MIB, 100 * MIB, 125 * MIB, 150 * MIB)


def process(size_mib: int, rate_mib_s: float = 0.0, until_mib: int = 10**6) -> ProcessSetup:
    return replace(
        sleeper(size_mib * MIB),
        name=f"p{size_mib}",
        rate_bytes_s=rate_mib_s * MIB,
        until_bytes=until_mib * MIB,
    )


def setup(
    *processes: ProcessSetup,
    nodes: tuple[NodeSetup, ...] = (NODE,),
    swap_mib: int = 0,
    swap_mib_s: int = 0,
) -> Setup:
    return Setup("test", 0, 2, 0, nodes, swap_mib * MIB, swap_mib_s * MIB, processes)


def machine(made: Setup) -> tuple[Loop, Machine, list[int]]:
    loop, grown = Loop(), list[int]()
    return loop, Machine(loop, made, lambda: None, grown.append), grown


def to(loop: Loop, it: Machine, time_s: float) -> None:
    loop.run(time_s)
    loop.pass_to(time_s)
    it.advance()


def test_it_stalls_at_the_min_watermark_and_counts() -> None:
    loop, it, _ = machine(setup(process(500, 100), process(100, 100)))
    to(loop, it, 1.0)
    assert it.nodes[0].free_bytes == pytest.approx(200 * MIB)
    to(loop, it, 4.5)
    # 300 MiB at 200 MiB a second; from then on both stall.
    node = it.nodes[0]
    assert it.first_stall_s == pytest.approx(1.5)
    assert node.free_bytes == pytest.approx(100 * MIB, abs=2)
    assert node.stalled == 2
    assert node.stalled_s == pytest.approx(6.0)
    assert it.relieved_s is None


def test_what_is_given_back_is_what_it_held_and_relief_is_the_high_watermark() -> None:
    loop, it, _ = machine(setup(process(500, 0), process(300, 100)))
    to(loop, it, 2.0)
    it.stop(1)
    node = it.nodes[0]
    assert (node.stalled, node.in_incident) == (0, True)
    for number in range(4):
        assert node.in_incident == (number < 1)
        it.give_back(1, 0.25)
        assert node.free_bytes == pytest.approx((200 + 100 * number) * MIB, abs=4)
    assert it.relieved_s == pytest.approx(2.0)


def test_between_min_and_high_there_is_no_relief_though_nobody_stalls() -> None:
    loop, it, _ = machine(setup(process(860, 0), process(40, 100)))
    to(loop, it, 1.0)
    it.stop(1)
    it.give_back(1, 1.0)
    assert it.nodes[0].free_bytes == pytest.approx(140 * MIB, abs=2)
    assert it.nodes[0].in_incident
    it.stop(0)
    it.give_back(0, 0.25)
    assert not it.nodes[0].in_incident


def test_who_stalled_goes_on_and_stalls_again() -> None:
    loop, it, _ = machine(setup(process(500, 0), process(300, 100)))
    to(loop, it, 2.0)
    it.stop(0)
    it.give_back(0, 1.0)
    assert it.relieved_s == pytest.approx(2.0)
    to(loop, it, 7.5)
    assert it.nodes[0].stalled == 1
    assert it.relieved_s is None
    assert it.nodes[0].stalled_s == pytest.approx(1.0 + 0.5)


def test_who_is_not_bound_goes_to_the_next_node() -> None:
    other = replace(NODE, name="node1")
    free, bound = process(800, 100), replace(process(50, 100), bound=True)
    loop, it, _ = machine(setup(free, bound, nodes=(NODE, other)))
    to(loop, it, 1.0)
    # 50 MiB are left on node0 for both together; then one goes on at node1, the other one stalls.
    assert [node.stalled for node in it.nodes] == [1, 0]
    assert it.nodes[1].used_bytes == pytest.approx(75 * MIB, abs=2)
    to(loop, it, 20.0)
    assert [node.stalled for node in it.nodes] == [2, 0]
    it.stop(0)
    it.give_back(0, 1.0)
    assert [round(node.free_bytes / MIB) for node in it.nodes] == [925, 1000]


def test_swap_slows_before_it_stalls_and_is_given_back() -> None:
    loop, it, _ = machine(setup(process(775, 100), swap_mib=100, swap_mib_s=50))
    to(loop, it, 1.0)  # to the low watermark
    to(loop, it, 2.0)
    assert it.swap_free_bytes == pytest.approx(50 * MIB)
    assert it.nodes[0].free_bytes == pytest.approx(125 * MIB, abs=2)
    assert it.nodes[0].stalled_s == pytest.approx(0.5)  # half as fast as it wants
    to(loop, it, 10.0)  # swap is full after 3 s, the last 25 MiB a quarter later
    assert it.first_stall_s == pytest.approx(3.25)
    it.stop(0)
    it.give_back(0, 1.0)
    assert it.swap_free_bytes == pytest.approx(100 * MIB, abs=2)
    assert it.nodes[0].free_bytes == pytest.approx(1000 * MIB, abs=2)


def test_who_is_grown_is_told_of_once() -> None:
    loop, it, grown = machine(setup(process(100, 100, 300), process(200)))
    to(loop, it, 1.0)
    assert grown == []
    to(loop, it, 50.0)
    assert grown == [0]
    assert it.first_stall_s is None


@settings(max_examples=60)
@given(
    st.lists(st.tuples(st.integers(1, 200), st.integers(0, 400)), min_size=1, max_size=4),
    st.lists(st.tuples(st.floats(0.01, 3), st.integers(0, 3)), max_size=5),
)
def test_no_byte_is_lost(made: list[tuple[int, int]], kills: list[tuple[float, int]]) -> None:
    loop, it, _ = machine(setup(*(process(size, rate) for size, rate in made)))
    for after_s, who in kills:
        to(loop, it, loop.now_s + after_s)
        holding = it.holdings[who % len(made)]
        if not holding.is_stopped:
            it.stop(who % len(made))
        it.give_back(who % len(made), 0.5)
        held = sum(one.bytes for one in it.holdings)
        assert held + it.nodes[0].free_bytes == pytest.approx(1000 * MIB, abs=8)
        assert it.nodes[0].free_bytes >= 100 * MIB - 2


@pytest.mark.parametrize(("ends_s", "needless"), [(9.0, 1), (11.0, 0)])
def test_needless_is_what_would_have_come_within_ten_seconds(ends_s: float, needless: int) -> None:
    ends = replace(process(500, 0.001), until_bytes=500 * MIB + 1, stays_s=ends_s)
    runs = Runs(setup(ends, process(340, 1000, 420)), STRATEGIES["kernel"], calibrated())
    result = runs.result(Job("test", "kernel", 0))
    assert result.victims == ("p500",)
    assert result.needless == result.nodes[0].needless == needless
    bound = Runs(setup(ends, process(340, 1000, 420)), STRATEGIES["clairvoyant"], calibrated())
    bound.foresee()
    patient = bound.result(Job("test", "clairvoyant", 0))
    assert (patient.kills, patient.needless) == (1 - needless, 0)
