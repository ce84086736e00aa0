"""Which room may know which: the design's "never" list, held by the import graph."""

import ast
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import grimp
import pytest

SOURCE = Path(__file__).parents[1] / "src" / "memreap"
ROOMS = sorted(
    {path.stem if path.is_file() else path.name for path in SOURCE.iterdir()}
    - {"__init__", "__main__", "__pycache__", "py"}
)
ACTING = ("os", "time", "random", "socket", "subprocess")
OUTSIDE_THE_STANDARD_LIBRARY = "*"


@dataclass(frozen=True)
class Never:
    """No module of ``room`` (but ``but``) imports any of ``forbidden``."""

    room: str
    forbidden: tuple[str, ...]
    but: tuple[str, ...] = ()


def rooms_but(*own: str) -> tuple[str, ...]:
    return tuple(f"memreap.{room}" for room in ROOMS if room not in own)


# Of evidence/, what holds a trace against the model.
CONFORM = tuple(
    f"memreap.evidence.{one}"
    for one in (
        "actors",
        "alphabet",
        "conform",
        "language",
        "reapers",
        "scene",
        "verdict",
        "watched",
    )
)
NEVER = {
    "decide acts": Never("memreap.decide", (*ACTING, *rooms_but("decide"))),
    "linux knows us": Never("memreap.linux", rooms_but("linux")),
    "victims know more than linux": Never("memreap.victims", rooms_but("victims", "linux")),
    "check knows memory management, or anything of ours": Never(
        "memreap.check", rooms_but("check")
    ),
    "mm knows more than check": Never("memreap.mm", (*ACTING, *rooms_but("mm", "check"))),
    "what runs here knows the model": Never(
        "memreap",
        ("memreap.check", "memreap.mm", "memreap.proof"),
        but=(
            *("memreap.check", "memreap.mm", "memreap.proof", "memreap.simulate", "memreap.cli"),
            *CONFORM,
        ),
    ),
    "evidence decides, guards or simulates, or knows who is guarded": Never(
        "memreap.evidence",
        tuple(
            f"memreap.{room}"
            for room in ("decide", "guard", "simulate", "run", "config", "records", "demo", "cli")
        ),
    ),
    "simulate touches the machine that it runs on, or what people see": Never(
        "memreap.simulate",
        tuple(
            f"memreap.{room}"
            for room in ("run", "config", "records", "telling", "proof", "victims", "demo", "cli")
        ),
        # A recorded incident is read and told; costs are measured, where real processes die.
        but=tuple(
            f"memreap.simulate.{one}" for one in ("guard_replay", "again", "calibrate", "killing")
        ),
    ),
    "anyone but the command line simulates": Never(
        "memreap", ("memreap.simulate",), but=("memreap.simulate", "memreap.cli")
    ),
    "the core needs a package": Never("memreap.guard.core", (OUTSIDE_THE_STANDARD_LIBRARY,)),
    "the guard needs a package": Never("memreap.guard", (OUTSIDE_THE_STANDARD_LIBRARY,)),
    "the guard carries what reads files and tells people": Never(
        "memreap.guard", ("memreap.config", "memreap.telling"), but=("memreap.guard.launch",)
    ),
    "records decide, act or tell": Never(
        "memreap.records", ("memreap.decide", "memreap.reap", "memreap.telling", "memreap.config")
    ),
    "who tells of the guard runs in it": Never(
        "memreap.telling", ("memreap.guard", "memreap.reap")
    ),
    "anyone calls the command line": Never(
        "memreap", ("memreap.cli",), but=("memreap.cli", "memreap.__main__")
    ),
    "reap looks up": Never(
        "memreap.reap",
        tuple(
            f"memreap.{room}"
            for room in ("run", "guard", "config", "records", "kill", "report", "cli", "demo")
        ),
    ),
}


def below(module: str, room: str) -> bool:
    return module == room or module.startswith(room + ".")


def is_forbidden(imported: str, never: Never, package: str) -> bool:
    if OUTSIDE_THE_STANDARD_LIBRARY in never.forbidden:
        top = imported.partition(".")[0]
        return top != package and top not in sys.stdlib_module_names
    return any(below(imported, room) for room in never.forbidden)


def violations(graph: grimp.ImportGraph, never: Never, package: str = "memreap") -> list[str]:
    """Every forbidden import, as "importer -> imported". A room that is not there has none."""
    return sorted(
        f"{module} -> {imported}"
        for module in graph.modules
        if below(module, never.room) and not any(below(module, other) for other in never.but)
        for imported in graph.find_modules_directly_imported_by(module)
        if is_forbidden(imported, never, package)
    )


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    return grimp.build_graph("memreap", include_external_packages=True, cache_dir=None)


def test_the_core_loads_nothing_from_outside_the_standard_library() -> None:
    code = (
        "import sys, memreap.guard.__main__\n"
        "print(*{name.partition('.')[0] for name in sys.modules})"
    )
    env = {**os.environ, "PYTHONPATH": os.fspath(SOURCE.parent)}
    done = subprocess.run(
        [sys.executable, "-S", "-P", "-c", code], env=env, capture_output=True, check=True
    )
    loaded = set(done.stdout.decode().split()) - {"memreap", "__main__"}
    assert loaded <= sys.stdlib_module_names
    heavy = {"sqlite3", "email", "http", "ssl", "asyncio", "subprocess", "tomllib", "argparse"}
    assert not loaded & heavy


@pytest.mark.parametrize("rule", sorted(NEVER))
def test_never(graph: grimp.ImportGraph, rule: str) -> None:
    assert violations(graph, NEVER[rule]) == []


def test_the_graph_sees_our_rooms_and_the_standard_library(graph: grimp.ImportGraph) -> None:
    assert {"memreap.linux.syscalls", "memreap.reap.execution", "os", "click"} <= graph.modules


PLANTED = {
    "decide/late.py": "def now():\n    import time\n    return time\n",
    "decide/rude.py": "from planted.linux import kernel\n",
    "linux/kernel.py": "import os\n",
    "guard/core.py": "import os\nimport click\nfrom planted.linux import kernel\n",
    "helper.py": "import planted.cli\n",
    "cli.py": "",
    "__main__.py": "import planted.cli\n",
}


def test_a_planted_violation_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, source in PLANTED.items():
        file = tmp_path / "planted" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        (file.parent / "__init__.py").touch()
        file.write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    graph = grimp.build_graph("planted", include_external_packages=True, cache_dir=None)
    forbidden = ("time", "planted.linux")
    assert violations(graph, Never("planted.decide", forbidden), "planted") == [
        "planted.decide.late -> time",
        "planted.decide.rude -> planted.linux.kernel",
    ]
    core = Never("planted.guard.core", (OUTSIDE_THE_STANDARD_LIBRARY,))
    assert violations(graph, core, "planted") == ["planted.guard.core -> click"]
    cli = Never("planted", ("planted.cli",), but=("planted.cli", "planted.__main__"))
    assert violations(graph, cli, "planted") == ["planted.helper -> planted.cli"]
    assert violations(graph, Never("planted.linux", ("planted.decide",)), "planted") == []
    assert violations(graph, Never("planted.not_yet", ("os",)), "planted") == []


@pytest.mark.parametrize(
    "file", sorted(SOURCE.rglob("*.py")), ids=lambda f: str(f.relative_to(SOURCE))
)
def test_a_file_begins_with_what_it_is(file: Path) -> None:
    docstring = ast.get_docstring(ast.parse(file.read_text()))
    assert docstring
    assert docstring.splitlines()[0].strip()
