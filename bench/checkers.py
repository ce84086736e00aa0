"""rumur and SPIN, each made ready for its model of :mod:`bench.models`, and run.

Both make a C program of a model: the making is timed by itself. What a run found is read here,
and nowhere else.
"""

import functools
import platform
import re
import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

from bench import models

RUMUR_FLAGS = ("-O3", "-march=native", "-fwhole-program")  # as its programs themselves advise
SPIN_FLAGS = ("-O3",)
DEPTH_MAX = 100_000
SPIN_SLOTS_BITS = (
    20  # of its table: it grows by itself; its own first size costs a tenth of a second
)
LIMIT_S = 600.0
CX16 = ("-mcx16",) if platform.machine() == "x86_64" else ()


@dataclass(frozen=True, slots=True)
class Found:
    """``transitions``: every step that is possible in every state, loops to itself too.

    ``covered``: what rumur was asked to come by, and how often it did.
    """

    states: int
    transitions: int
    seconds: float
    covered: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Verifier:
    """A program that explores one model. ``made_s``: how long it took to make it."""

    command: tuple[str, ...]
    made_s: float
    read: Callable[[str, float], Found]

    def run(self) -> Found:
        """Explore. Raises RuntimeError where it finds a fault or fails."""
        began_s = time.perf_counter()
        said = _say(*self.command)
        return self.read(said, time.perf_counter() - began_s)


def missing(checker: str) -> str | None:
    """Why a checker cannot be run here, or None."""
    lacking = [program for program in (checker, "gcc") if shutil.which(program) is None]
    return f"there is no {' and no '.join(lacking)} here" if lacking else None


@functools.cache
def version(checker: str) -> str:
    """As it calls itself."""
    words = _say(checker, {"rumur": "--version", "spin": "-V", "gcc": "-dumpfullversion"}[checker])
    found = re.search(r"\d[\w.]*", words)
    return found[0] if found else words.strip()


def rumur(
    directory: Path,
    readers: int,
    threads: int,
    *,
    workers: int = 1,
    symmetry: bool = False,
    flags: tuple[str, ...] = RUMUR_FLAGS,
) -> Verifier:
    """``workers``: its own threads. ``symmetry``: readers are taken for one another.

    Raises RuntimeError.
    """
    source, code, program = (directory / f"current{end}" for end in (".m", ".c", ""))
    source.write_text(_scaled(models.MURPHI.read_text(), READERS=readers, THREADS=threads))
    began_s = time.perf_counter()
    how = {
        "--threads": str(workers),
        "--symmetry-reduction": "heuristic" if symmetry else "off",
        "--deadlock-detection": "off",  # where daemons wait for work, there is nothing wrong
        "--counterexample-trace": "off",
        "--output-format": "machine-readable",
        "--output": str(code),
    }
    _say("rumur", "--quiet", *(word for option in how.items() for word in option), str(source))
    _say("gcc", *flags, *CX16, "-pthread", "-o", str(program), str(code))
    return Verifier((str(program),), time.perf_counter() - began_s, _read_rumur)


def _scaled(text: str, **constants: int) -> str:
    for name, value in constants.items():
        text, done = re.subn(rf"^  {name}: \d+;", f"  {name}: {value};", text, flags=re.MULTILINE)
        assert done == 1, f"{name} stands once at the top of the model"
    return text


def _read_rumur(said: str, seconds: float) -> Found:
    root = ElementTree.fromstring(said)
    summary = root.find("summary")
    if summary is None or summary.get("errors") != "0":
        raise RuntimeError(f"rumur did not come through: {said[-500:]}")
    covered = {
        result.get("message", ""): int(result.get("count", 0))
        for result in root.iter("cover_result")
    }
    return Found(
        int(summary.get("states", 0)), int(summary.get("rules_fired", 0)), seconds, covered
    )


def spin(
    directory: Path,
    readers: int,
    threads: int,
    *,
    reduction: bool = False,
    flags: tuple[str, ...] = SPIN_FLAGS,
) -> Verifier:
    """``reduction``: SPIN's partial order reduction. Raises RuntimeError."""
    began_s = time.perf_counter()
    size = (f"-DREADERS={readers}", f"-DTHREADS={threads}")
    _say("spin", "-o2", *size, "-a", str(models.PROMELA), cwd=directory)
    program = str(directory / "pan")
    reduces = () if reduction else ("-DNOREDUCE",)
    _say("gcc", *flags, "-DSAFETY", *reduces, "-o", program, "pan.c", cwd=directory)
    command = (program, f"-m{DEPTH_MAX}", f"-w{SPIN_SLOTS_BITS}")
    return Verifier(command, time.perf_counter() - began_s, _read_spin)


def _read_spin(said: str, seconds: float) -> Found:
    states = re.search(r"(\d+) states, stored", said)
    transitions = re.search(r"(\d+) transitions", said)
    if not states or not transitions or "errors: 0" not in said or "too small" in said:
        raise RuntimeError(f"SPIN did not come through: {said[-500:]}")
    # It counts stored and matched states: the first one too, to which no step leads.
    return Found(int(states[1]), int(transitions[1]) - 1, seconds)


def _say(*command: str, cwd: Path | None = None) -> str:
    done = subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, timeout=LIMIT_S, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{command[0]} failed ({done.returncode}): {done.stderr[-500:]}")
    return done.stdout
