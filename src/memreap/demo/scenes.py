"""What the demo shows: kinds of victim, each with what makes it hard, as a table.

A scene is set up, a victim staged in it, and torn down whatever happens; what is measured in it
is ``measure``'s business.
"""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from memreap.demo.janitor import janitor, relax
from memreap.linux import cgroups
from memreap.linux.procfs import Procfs
from memreap.victims import Staged, stage

SIZE_BYTES = 512 << 20
NEIGHBOURS_PER_CPU = 3


@dataclass(frozen=True, slots=True)
class Scene:
    """One row."""

    name: str
    kind: str  # of the victim
    why: str  # it is hard
    crowded: bool = False  # beside CPU-bound neighbours
    frozen: bool = False  # in a cgroup v1 freezer
    throttled: bool = False  # in a CPU cgroup limited to 1 % of one CPU
    huge: bool = False
    size_bytes: int = SIZE_BYTES


SCENES = (
    Scene("sleeping hog", "sleeping", "one hand unmaps where two could"),
    Scene("busy hog", "busy", "the same, while it runs"),
    Scene("hog, busy neighbours", "busy", "its exit waits for a CPU", crowded=True),
    Scene("SCHED_IDLE hog, busy neighbours", "idle", "its exit hardly runs at all", crowded=True),
    Scene("memory shared by two processes", "shared", "one dead, the other holds it all"),
    Scene("frozen in a cgroup (v1)", "sleeping", "it cannot die before it is thawed", frozen=True),
    Scene("thread hung on a FUSE read", "hung-thread", "it cannot be killed, and keeps it all"),
    Scene("AIO in flight, never completes", "hung-aio", "its exit waits in exit_aio for ever"),
)


@dataclass(frozen=True, slots=True)
class Place:
    """Where victims are staged: with the groups that this machine lets us make."""

    memory_group: Path | None
    freezer_group: Path | None
    cpu_group: Path | None = None

    @property
    def groups(self) -> list[Path]:
        """Each victim joins them."""
        made = (self.memory_group, self.freezer_group, self.cpu_group)
        return [group for group in made if group is not None]


@contextlib.contextmanager
def staged(scene: Scene) -> Iterator[tuple[Staged, Path | None]]:
    """The victim, ready in its scene, and its memory cgroup if one could be made."""
    count = NEIGHBOURS_PER_CPU * (os.cpu_count() or 1) if scene.crowded else 0
    with _place(scene) as place, janitor(place.groups), contextlib.ExitStack() as stack:
        victim = stack.enter_context(
            stage(
                scene.kind,
                scene.size_bytes,
                huge=scene.huge,
                cgroups=place.groups,
                neighbours=count,
            )
        )
        # Only now that it is ready; the janitor takes both back.
        if place.cpu_group:
            _throttle(place.cpu_group)
        if place.freezer_group:
            (place.freezer_group / "freezer.state").write_text("FROZEN")
        try:
            yield victim, place.memory_group
        finally:
            relax(place.groups)


@contextlib.contextmanager
def _place(scene: Scene) -> Iterator[Place]:
    """Groups of our own. The memory cgroup is what we measure by: without it, by exit."""
    name, proc = f"memreap-demo-{os.getpid()}", Procfs()
    with contextlib.ExitStack() as stack:
        memory = None
        with contextlib.suppress(OSError):
            memory = stack.enter_context(cgroups.temporary("memory", name, proc))
        freezer = cpu = None
        if scene.frozen:
            freezer = stack.enter_context(cgroups.temporary("freezer", name, proc))
        if scene.throttled:
            cpu = stack.enter_context(cgroups.temporary("cpu", name, proc))
        yield Place(memory, freezer, cpu)


def _throttle(group: Path) -> None:
    """1 % of one CPU."""
    if (group / "cpu.max").exists():
        (group / "cpu.max").write_text("1000 100000")
    else:
        (group / "cpu.cfs_quota_us").write_text("1000")


def left_out(possible: dict[str, str | None]) -> dict[str, str]:
    """Scene name -> why this machine, or this user, cannot have it."""
    reasons: dict[str, str] = {}
    for scene in SCENES:
        why = possible.get(scene.kind)
        if scene.frozen and not why:
            why = _why_no_group("freezer")
        if why:
            reasons[scene.name] = why
    return reasons


def _why_no_group(controller: str) -> str | None:
    try:
        with cgroups.temporary(controller, f"memreap-try-{os.getpid()}", Procfs()):
            return None
    except OSError as error:
        return f"{controller} cgroup: {error.strerror}"
