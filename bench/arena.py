"""Alone with a victim in a PID namespace, made by ``unshare --pid --fork --mount-proc``.

This is process 1 of it: stages the victim, says so, runs the killer it is told to run, ends when
its stdin does. Whoever kills by looking around finds nobody else's processes here.
"""

import json
import subprocess
import sys

from memreap.victims import stage


def main() -> None:
    """argv: a JSON object with what ``stage`` takes. stdin: a killer's argv as JSON, a line."""
    order = json.loads(sys.argv[1])
    # earlyoom takes pid 2 and its children for kernel threads: nobody here may be those.
    subprocess.run(["true"], check=True)
    with stage(order.pop("kind"), order.pop("size_bytes"), **order) as staged:
        print(json.dumps({"pid": staged.pid}), flush=True)
        killers: list[subprocess.Popen[bytes]] = []
        try:
            for line in sys.stdin:
                argv = [part.replace("PID", str(staged.pid)) for part in json.loads(line)]
                killers.append(
                    subprocess.Popen(
                        argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=2
                    )
                )
        finally:
            for killer in killers:
                killer.kill()
                killer.wait()


if __name__ == "__main__":
    main()
