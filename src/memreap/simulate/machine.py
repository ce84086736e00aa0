"""Memory: nodes, who grows in them, who stalls, and what comes back.

1. Between two events everything grows evenly; an event is where that changes. Nothing is stepped.
2. Who needs memory takes it from its own node, or, if it is not bound, from the next that has some.
   Where none has, and swap has no room, it stalls until memory comes.
3. While there is swap, a node is kept at its low watermark: what grows there goes out at the pace
   of the swap, evenly for all who grow.
4. A node's incident begins when somebody stalls at it, and ends when nobody does and its free
   memory is at the high watermark again.
5. What a process held when it was killed comes back as its pages do, from every node alike.

Left out: what it costs to look for memory that is not there (reclaim), and page cache, of which
``free`` is to be read as including what can be dropped.
"""

from collections.abc import Callable
from math import inf

from memreap.simulate.loop import Loop
from memreap.simulate.setup import NodeSetup, ProcessSetup, Setup

BYTE = 0.5  # less is nothing


class Node:
    """A node, now."""

    def __init__(self, setup: NodeSetup) -> None:
        """All free."""
        self.setup = setup
        self.name = setup.name
        self.free_bytes = float(setup.size_bytes)
        self.outflow_bytes_s = 0.0
        self.stalled = 0  # processes
        self.stalled_s = 0.0  # of all of them together
        self.is_full = False
        self.first_stall_s: float | None = None
        self.relieved_s: float | None = None  # since when, after an incident
        self.in_incident = False

    @property
    def used_bytes(self) -> int:
        """What is not free."""
        return int(self.setup.size_bytes - self.free_bytes)


class Holding:
    """What a process holds, and how it grows."""

    def __init__(self, setup: ProcessSetup, nodes: int) -> None:
        """With its first size, not growing yet."""
        self.setup = setup
        self.held_bytes = [0.0] * nodes
        self.held_bytes[setup.node] = float(setup.size_bytes)
        self.swapped_bytes = 0.0
        self.is_growing = False
        self.is_stopped = False  # killed, or about to end
        self.stop_bytes = 0.0  # what it held then, resident
        self.stopped: tuple[list[float], float] = ([], 0.0)
        self.grows_in: int | None = None
        self.rate_bytes_s = 0.0
        self.swap_rate_bytes_s = 0.0

    @property
    def bytes(self) -> float:
        """All it holds."""
        return sum(self.held_bytes) + self.swapped_bytes

    @property
    def left_bytes(self) -> float:
        """How much it will still grow."""
        return self.setup.until_bytes - self.bytes

    def allowed(self, nodes: int) -> list[int]:
        """Nodes it may use, its own first."""
        own = self.setup.node
        return [own] if self.setup.bound else [own, *(n for n in range(nodes) if n != own)]


class Machine:
    """All memory."""

    def __init__(
        self,
        loop: Loop,
        setup: Setup,
        changed: Callable[[], object],
        grown: Callable[[int], object],
    ) -> None:
        """``changed``: after every change. ``grown``: a process, by number, has all it wants."""
        self._loop = loop
        self.nodes = [Node(one) for one in setup.nodes]
        self.holdings = [Holding(one, len(self.nodes)) for one in setup.processes]
        self.swap_free_bytes = float(setup.swap_bytes)
        self._swap_bytes_s = setup.swap_bytes_s
        self._changed, self._grown = changed, grown
        self._advanced_s = loop.now_s
        self._turn = 0
        for holding in self.holdings:
            node = self.nodes[holding.setup.node]
            node.free_bytes -= holding.setup.size_bytes
        for number, holding in enumerate(self.holdings):
            if holding.setup.rate_bytes_s:
                loop.at(holding.setup.start_s, self._start, number)

    @property
    def first_stall_s(self) -> float | None:
        """When the first one stalled, anywhere."""
        stalls = [one.first_stall_s for one in self.nodes if one.first_stall_s is not None]
        return min(stalls, default=None)

    @property
    def relieved_s(self) -> float | None:
        """Since when no node is in an incident, after there was one."""
        if self.first_stall_s is None or any(one.in_incident for one in self.nodes):
            return None
        return max(one.relieved_s for one in self.nodes if one.relieved_s is not None)

    def stop(self, number: int) -> None:
        """A process is killed, or ends: it grows no more."""
        self.advance()
        holding = self.holdings[number]
        holding.is_growing = False
        holding.is_stopped = True
        holding.stop_bytes = sum(holding.held_bytes)
        holding.stopped = (list(holding.held_bytes), holding.swapped_bytes)
        self._plan()

    def give_back(self, number: int, share: float) -> None:
        """A share of what a stopped process held is free again."""
        self.advance()
        holding = self.holdings[number]
        held, swapped = holding.stopped
        for index, bytes_held in enumerate(held):
            back = min(bytes_held * share, holding.held_bytes[index])
            holding.held_bytes[index] -= back
            self.nodes[index].free_bytes += back
        back = min(swapped * share, holding.swapped_bytes)
        holding.swapped_bytes -= back
        self.swap_free_bytes += back
        self._plan()

    def advance(self) -> None:
        """Bring everything to now."""
        passed_s = self._loop.now_s - self._advanced_s
        if not passed_s:
            return
        self._advanced_s = self._loop.now_s
        for node in self.nodes:
            node.free_bytes -= node.outflow_bytes_s * passed_s
        for holding in self.holdings:
            if not holding.is_growing:
                continue
            if holding.grows_in is not None:
                holding.held_bytes[holding.grows_in] += holding.rate_bytes_s * passed_s
            elif holding.swap_rate_bytes_s:
                more = holding.swap_rate_bytes_s * passed_s
                holding.swapped_bytes += more
                self.swap_free_bytes -= more
            lost = (
                1 - (holding.rate_bytes_s + holding.swap_rate_bytes_s) / holding.setup.rate_bytes_s
            )
            self.nodes[holding.setup.node].stalled_s += max(0.0, lost) * passed_s

    def _floor_bytes(self, node: Node) -> int:
        has_swap = self.swap_free_bytes > BYTE
        return node.setup.low_bytes if has_swap else node.setup.min_bytes

    def _start(self, number: int) -> None:
        self.advance()
        holding = self.holdings[number]
        holding.is_growing = not holding.is_stopped
        self._plan()

    def _plan(self) -> None:
        """Who takes from where, from now on; and until when that is so."""
        done = [
            n for n, one in enumerate(self.holdings) if one.is_growing and one.left_bytes < BYTE
        ]
        for number in done:
            self.holdings[number].is_growing = False
        for node in self.nodes:
            node.outflow_bytes_s, node.stalled = 0.0, 0
            node.is_full = node.free_bytes - self._floor_bytes(node) < BYTE
        growing = [one for one in self.holdings if one.is_growing]
        swapping = [one for one in growing if not self._takes(one)]
        self._swaps(swapping)
        self._judge()
        self._turn += 1
        soonest_s = self._soonest_s(growing)
        if soonest_s < inf:
            self._loop.after(soonest_s, self._crossed, self._turn)
        self._changed()
        for number in done:
            self._grown(number)

    def _takes(self, holding: Holding) -> bool:
        """Whether a node has memory for it."""
        holding.grows_in, holding.rate_bytes_s, holding.swap_rate_bytes_s = None, 0.0, 0.0
        for index in holding.allowed(len(self.nodes)):
            node = self.nodes[index]
            if not node.is_full:
                holding.grows_in, holding.rate_bytes_s = index, holding.setup.rate_bytes_s
                node.outflow_bytes_s += holding.rate_bytes_s
                return True
        return False

    def _swaps(self, swapping: list[Holding]) -> None:
        """Those whom no node has memory for go at the pace of the swap, or stall."""
        wanted = sum(one.setup.rate_bytes_s for one in swapping)
        pace = min(1.0, self._swap_bytes_s / wanted) if wanted else 0.0
        for one in swapping:
            if self.swap_free_bytes > BYTE:
                one.swap_rate_bytes_s = one.setup.rate_bytes_s * pace
            else:
                self.nodes[one.setup.node].stalled += 1

    def _judge(self) -> None:
        """Where an incident begins or ends."""
        for node in self.nodes:
            if node.stalled:
                node.in_incident, node.relieved_s = True, None
                if node.first_stall_s is None:
                    node.first_stall_s = self._loop.now_s
            elif node.in_incident and node.free_bytes >= node.setup.high_bytes:
                node.in_incident, node.relieved_s = False, self._loop.now_s

    def _soonest_s(self, growing: list[Holding]) -> float:
        soonest_s = inf
        for node in self.nodes:
            if node.outflow_bytes_s:
                room = node.free_bytes - self._floor_bytes(node)
                soonest_s = min(soonest_s, room / node.outflow_bytes_s)
        for one in growing:
            rate = one.rate_bytes_s + one.swap_rate_bytes_s
            if rate:
                soonest_s = min(soonest_s, one.left_bytes / rate)
        swapping = sum(one.swap_rate_bytes_s for one in growing)
        if swapping:
            soonest_s = min(soonest_s, self.swap_free_bytes / swapping)
        return soonest_s

    def _crossed(self, turn: int) -> None:
        if turn == self._turn:
            self.advance()
            self._plan()
