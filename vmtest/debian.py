"""A guest with a whole Debian: systemd as process 1, a disk, the project installed as by a user.

For what the small guest has not: units, sessions, programs of other people, pages of files that
can be written out and read again. It boots in some ten seconds, not three.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vmtest import guest, project, roots
from vmtest.guest import Result, Software

HOME = "/memreap"
PACKAGE = Path(__file__).parent
INSIDE = ("__init__.py", "agent.py", "init.py", "inside.py")
UNIT = f"""[Unit]
Description=The script that this guest was booted for
[Service]
Type=exec
ExecStart={project.VENV}/bin/python -m vmtest.agent
Environment=PYTHONPATH={HOME}
OOMScoreAdjust=-1000
TasksMax=infinity
LimitMEMLOCK=infinity
LimitNOFILE=65536
StandardOutput=journal+console
StandardError=journal+console
Delegate=yes
"""
SYSTEM = "/etc/systemd/system"
APPEND = "systemd.show_status=0"


@dataclass(frozen=True)
class Machine(guest.Guest):
    """A machine to be, with a Debian on it: ``suite`` is bookworm, trixie or sid."""

    suite: str = "trixie"
    modules: tuple[str, ...] = ()
    timeout_s: float = 180.0
    qboot: bool = False

    def _software(self, folder: Path, source: str, options: dict[str, object]) -> Software:
        root = roots.ready(self.suite)
        files = {
            f"{HOME}/script.py": source.encode(),
            f"{HOME}/options.json": json.dumps(options).encode(),
            f"{SYSTEM}/vmtest.service": UNIT.encode(),
            **{f"{HOME}/vmtest/{name}": (PACKAGE / name).read_bytes() for name in INSIDE},
            **self.files,
        }
        links = {f"{SYSTEM}/multi-user.target.wants/vmtest.service": f"{SYSTEM}/vmtest.service"}
        tar = folder / "files.tar"
        tar.write_bytes(project.merged(project.layer(root), files, links))
        drives = (
            f"file={root.disk},format=raw,snapshot=on",  # what a guest writes is gone with it
            f"file={tar},format=raw,readonly=on",
        )
        return Software(root.kernel, root.initrd, drives, APPEND)


def run(script: str | Path, **options: Any) -> Result:
    """Boot a ``Machine`` of these options and run a script, Python source, in it."""
    return Machine(**options).run(script)
