"""From what a person asked for to a running guard: the configuration is settled, and the core takes
the place of this process.

The core starts in a fresh interpreter without site-packages' start-up: what was imported to read
arguments and files would stay in its memory for ever.
"""

import json
import os
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn

from memreap.config.command import tell
from memreap.config.load import load
from memreap.config.options import Options
from memreap.config.places import Places
from memreap.linux.procfs import printable
from memreap.telling.asking import NoGuardError, ask

EXIT_TROUBLE, EXIT_REFUSED = 1, 3
OPTIONAL = ("prometheus_client", "jeepney")  # the scribe's, where they are installed


def launch(options: Options) -> NoReturn:
    """Become the guard; where it cannot be, say why, and exit."""
    options = _from_anywhere(options)
    loaded = load(options, Places())
    if loaded.faults:
        sys.exit(tell(loaded.faults))
    other = _already_there(loaded.settings.records.socket)
    if other:
        print(f"memreap: {other}", file=sys.stderr)
        sys.exit(EXIT_REFUSED)
    settings = os.memfd_create("memreap-settings", 0)
    os.write(settings, json.dumps(loaded.settings.as_message()).encode())
    os.lseek(settings, 0, os.SEEK_SET)
    python = [sys.executable, "-P", "-S", "-m"]
    reload = [*python, "memreap.config", json.dumps(options.as_message())]
    os.chdir("/")  # a daemon keeps no mount busy
    _become([*python, "memreap.guard", str(settings), *reload])


def _from_anywhere(options: Options) -> Options:
    """The same, for a process that runs in another folder: paths that are there are whole."""
    whole = {
        name: os.path.abspath(value)  # noqa: PTH100 - links in it stay as they were given
        for name in ("config", "database", "socket")
        if (value := getattr(options, name)) is not None
    }
    cgroups = tuple(os.path.abspath(c) if Path(c).exists() else c for c in options.cgroups)  # noqa: PTH100
    return replace(options, cgroups=cgroups, **whole)


def _become(argv: list[str]) -> NoReturn:
    env = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    env["PYTHONPATH"] = os.pathsep.join(_places())
    if sys.dont_write_bytecode:
        env["PYTHONDONTWRITEBYTECODE"] = "1"
    sys.stdout.flush()
    sys.stderr.flush()
    try:
        os.execve(argv[0], argv, env)  # noqa: S606 - our own interpreter, and no shell
    except OSError as error:
        print(f"memreap: cannot start {argv[0]}: {error.strerror}", file=sys.stderr)
        sys.exit(EXIT_TROUBLE)


def _already_there(path: str) -> str:
    """Whether another guard answers there: two would kill for one and the same reason."""
    if not path:
        return ""
    try:
        pid = ask(path).get("pid")
    except NoGuardError:
        return ""
    return f"another guard (pid {pid}) answers at {printable(path)}; --socket gives one of its own"


def _places() -> list[str]:
    """Where the guard's own modules are, and the libraries that the scribe may use."""
    places = [Path(__file__).resolve().parents[2]]
    for name in OPTIONAL:
        spec = find_spec(name)
        if spec is not None and spec.origin is not None:
            places.append(Path(spec.origin).parents[1])
    return [os.fspath(place) for place in dict.fromkeys(places)]
