"""Asking a guard at its socket. See records/control.py."""

import json
import socket
import time
from typing import Any

ANSWER_S = 5.0
ANSWER_BYTES_MAX = 16 << 20
SOCKET = "/run/memreap/guard.sock"


class NoGuardError(Exception):
    """Nobody answers; the text says why."""


def ask(path: str) -> dict[str, Any]:
    """The guard's STATUS. Raises NoGuardError."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as end:
        end.settimeout(ANSWER_S)
        try:
            _connect(end, path)
            end.sendall(b'{"status": true}\n')
            said = b""
            while not said.endswith(b"\n"):
                part = end.recv(65536)
                if not part or len(said) > ANSWER_BYTES_MAX:
                    raise NoGuardError(f"the guard at {path} broke off")
                said += part
            answer = json.loads(said)
        except PermissionError as error:
            raise NoGuardError(f"not permitted to ask the guard at {path}") from error
        except (TimeoutError, BlockingIOError) as error:
            raise NoGuardError(f"the guard at {path} does not answer in time") from error
        except (OSError, ValueError) as error:
            raise NoGuardError(f"no guard answers at {path}: is it running?") from error
    if not isinstance(answer, dict) or "error" in answer:
        why = answer.get("error") if isinstance(answer, dict) else "no sense in it"
        raise NoGuardError(f"the guard at {path} answers: {why}")
    return answer


def _connect(end: socket.socket, path: str) -> None:
    """Raises OSError. A queue that is full is waited for: connect(2) does not, with a timeout."""
    deadline_s = time.monotonic() + ANSWER_S
    while True:
        try:
            end.connect(path)
        except BlockingIOError:
            if time.monotonic() >= deadline_s:
                raise
            time.sleep(0.02)
        else:
            return
