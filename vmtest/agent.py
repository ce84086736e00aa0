"""The guest's service, where systemd is process 1: runs the script, tells the host, ends the guest.

It speaks to the host as the small guest's init does.
"""

import json
import os
import time
import traceback
from pathlib import Path

from vmtest import init, inside

SWAP_DISK = "/dev/vdc"  # behind the root and the files


def main() -> None:
    """Never returns: the guest ends with its script."""
    os.environ.update(FRAMES_FD="3", LANG="C.UTF-8")
    frames = init.Frames()
    code = 1
    try:
        options = json.loads(Path(f"{init.HOME}/options.json").read_text())
        for name in options["modules"]:
            inside.load(name)
        inside.swap_on(options["swap"], SWAP_DISK)
        init.libc.mlockall(init.MCL_CURRENT)
        pump = init.Pump(frames)
        ends = [pump.pipe(kind) for kind in ("out", "err")]
        script = init.start([*ends, frames.fd])
        for fd in ends:
            os.close(fd)
        frames.send("ready", time.clock_gettime(time.CLOCK_BOOTTIME))
        code = init.code_of(script, pump)
    except Exception as error:
        frames.send("err", f"agent: {error}")
        traceback.print_exc()
    frames.end(code)
    init.libc.reboot(init.RB_AUTOBOOT)


if __name__ == "__main__":
    main()
