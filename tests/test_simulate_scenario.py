"""Scenario files and costs: what is drawn from them, and what is said of bad ones."""

from pathlib import Path

import pytest

from memreap.simulate import costs, scenario
from memreap.simulate.costs import CostsError, calibrated
from memreap.simulate.cpus import FIFO, IDLE
from memreap.simulate.scenario import ScenarioError
from memreap.simulate.setup import node
from memreap.simulate.world import World

NODE = 'says = "x"\n[[node]]\nsize = "1G"\n'
PROCESS = '[[process]]\nname = "p"\nsize = "100M"\n'

BAD = {
    "says = 3": "f.toml: says: not 3: say one line of text",
    "x = 1\n" + NODE + PROCESS: "f.toml: x: no such key; there are says, cpus, busy, node,",
    NODE: "f.toml: process: missing: at least one [[process]]",
    'says = "x"\n' + PROCESS: "f.toml: node: missing: at least one [[node]]",
    'says = "x"\nnode = 3\n' + PROCESS: "f.toml: node: say [[node]], a table each",
    'says = "x"\nswap = 3\n' + NODE[11:] + PROCESS: "f.toml: swap: say [swap], a table",
    NODE + "[swap]\n" + PROCESS: "f.toml: swap.size: missing: say a size such as",
    NODE + '[[process]]\nname = "p"\n': "f.toml: process[0].size: missing: say a size such as",
    NODE + PROCESS + "[[process]]\n": "f.toml: process[1].name: missing",
    NODE + PROCESS + 'sizes = "1G"': "f.toml: process[0].sizes: no such key",
    NODE + PROCESS + 'rate = ["2G", "1G"]': "f.toml: process[0].rate: not ['2G', '1G']: say bytes",
    NODE + PROCESS + 'rate = ["1G"]': "f.toml: process[0].rate: not ['1G']",
    NODE + PROCESS + "rate = true": "f.toml: process[0].rate: not True",
    NODE + PROCESS + 'page = "1G"': 'f.toml: process[0].page: not \'1G\': say "4K" or "2M"',
    NODE + PROCESS + "nice = 20": "f.toml: process[0].nice: not 20: say -20 to 19",
    NODE + PROCESS + "nice = [1]": "f.toml: process[0].nice: not [1]",
    NODE + PROCESS + "start = inf": "f.toml: process[0].start: not inf: say seconds",
    NODE + PROCESS + "node = 1": "f.toml: process[0].node: there is no node 1",
    NODE + PROCESS + 'hangs = "lock"': "f.toml: process[0].threads: one hangs, so say 2 or more",
    NODE + PROCESS + 'io = "slow"': "f.toml: process[0].io: not 'slow': say none, raw,",
    NODE + PROCESS + "count = 100": "f.toml: process: those of node0 may hold 9.766 GiB",
    NODE + PROCESS + "bound = 1": "f.toml: process[0].bound: not 1: say true or false",
    "says = ": "f.toml: Invalid value",
}


@pytest.mark.parametrize("text", BAD, ids=range(len(BAD)))
def test_a_bad_file_is_one_clear_line(text: str) -> None:
    with pytest.raises(ScenarioError) as caught:
        scenario.parse(text, "f.toml", "f")
    assert str(caught.value).startswith(BAD[text])
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(ScenarioError, match=r"no.toml: No such file .*; shipped scenarios are "):
        scenario.load(str(tmp_path / "no.toml"))
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ScenarioError, match=r"binary.toml: 'utf-8' codec"):
        scenario.load(str(tmp_path / "binary.toml"))


def test_everything_is_drawn_from_the_seed(tmp_path: Path) -> None:
    text = NODE + PROCESS.replace('"100M"', '["50M", "100M"]') + 'count = 3\nrate = ["1M", "9M"]\n'
    file = tmp_path / "own.toml"
    file.write_text(text + 'nice = "idle"\n[[process]]\nname = "q"\nsize = 4096\nnice = "fifo"\n')
    own = scenario.load(str(file))
    drawn = own.draw(7)
    assert own.name == "own"
    assert drawn == own.draw(7)
    assert drawn != own.draw(8)
    assert [one.name for one in drawn.processes] == ["p 1", "p 2", "p 3", "q"]
    first, *_, last = drawn.processes
    assert 50 << 20 <= first.size_bytes <= 100 << 20
    assert len({one.size_bytes for one in drawn.processes}) == 4
    assert (first.weight, last.weight, last.rate_bytes_s) == (IDLE, FIFO, 0.0)


def test_watermarks_are_the_kernels() -> None:
    # As /proc/zoneinfo adds up on a machine of 16 GiB: sqrt(16 * 16777216) KiB and a thousandth.
    made = node("node0", 16 << 30)
    assert made.min_bytes == 16384 << 10
    assert made.low_bytes - made.min_bytes == (16 << 30) // 1000
    assert made.high_bytes - made.low_bytes == made.low_bytes - made.min_bytes


def test_there_are_twelve_and_each_loads_and_says_what_it_is() -> None:
    names = scenario.names()
    assert len(names) >= 12
    for name in names:
        loaded = scenario.load(name)
        assert loaded.says.endswith(".")
        assert loaded.draw(0).scenario == name


@pytest.mark.parametrize("name", scenario.names())
def test_each_has_an_incident_nearly_always(name: str) -> None:
    class Nobody:
        def begin(self, world: World) -> None: ...

        def changed(self, world: World) -> None: ...

    from memreap.mm.kernel import Kernel

    loaded = scenario.load(name)
    stalls = 0
    for seed in range(8):
        world = World(loaded.draw(seed), Kernel, Nobody(), calibrated())
        world.run()
        stalls += world.machine.first_stall_s is not None
    assert stalls >= 7


# Costs.


def test_costs_are_written_and_read_again(tmp_path: Path) -> None:
    mine = costs.with_steps(calibrated(), free_pgtables=1e-6)
    file = tmp_path / "costs.toml"
    file.write_text(costs.dumps(mine))
    assert costs.load(str(file)) == mine
    assert mine.step("free_pgtables") == 1e-6
    assert mine.step("unheard of") == mine.step_s
    assert mine.page(4096) is mine.small
    assert mine.page(2 << 20) is mine.huge


def test_bad_costs_are_one_clear_line(tmp_path: Path) -> None:
    good = costs.dumps(calibrated())
    for text, said in (
        (good.replace("together = ", "together = 0.5 #"), "f: together: two hands are no slower"),
        (good.replace("zap_s", "zip_s"), "f: huge: zip_s: no such key; there are"),
        (good.replace("step_s = ", "step_s = -"), "f: step_s: missing, or no number from 0 on"),
        (good.replace("machine = ", "machine = 1 #"), "f: machine: missing, or no text"),
        ("more = 1\n" + good, "f: more: no such key"),
        ("machine = ", "f: Invalid value"),
        ("small = 3\n" + good.replace("[small]", "[steps.small]"), "f: small: missing, or no ta"),
    ):
        with pytest.raises(CostsError) as caught:
            costs.loads(text, "f")
        assert str(caught.value).startswith(said)
    with pytest.raises(CostsError, match=r"no.toml: No such file"):
        costs.load(str(tmp_path / "no.toml"))
