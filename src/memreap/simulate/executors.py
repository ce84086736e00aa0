"""Who does the work of a sweep, by the name it has on the command line.

``processes``: of this machine. ``dask://HOST:PORT``: the workers of a Dask scheduler, on whatever
machines they are; they need memreap of the same version, and nothing else.
"""

import logging
import os
from concurrent.futures import Executor
from typing import Any

from memreap import __version__
from memreap.simulate import sweep
from memreap.simulate.sweep import Team

PROCESSES, DASK = "processes", "dask://"
CONNECT_S = 10


class NoExecutorError(RuntimeError):
    """There is nobody to do the work; one line says why."""


class BadNameError(ValueError):
    """No name of an executor, or not with what else was asked."""


def team(name: str, workers: int | None) -> Team:
    """By its name. Raises NoExecutorError, BadNameError."""
    if name == PROCESSES:
        return sweep.processes(workers or len(os.sched_getaffinity(0)))
    address = name.removeprefix(DASK)
    host, colon, port = address.rpartition(":")
    if not (name.startswith(DASK) and host and colon and port.isdecimal()):
        raise BadNameError(f"no executor {name!r}: say {PROCESSES}, or {DASK}HOST:PORT")
    if workers is not None:
        raise BadNameError(
            f"--jobs is of --executor {PROCESSES}: Dask's workers are as many as ran"
        )
    return _dask(address)


def version() -> str:
    """Asked of each of Dask's workers."""
    return __version__


def _dask(address: str) -> Team:
    try:
        from distributed import KilledWorker  # noqa: PLC0415
    except ImportError as error:
        raise NoExecutorError(
            f"--executor {DASK} needs distributed: pip install 'memreap[dask]'"
        ) from error
    logging.getLogger("distributed").setLevel(logging.CRITICAL)  # what is lost is told by us
    client = _client(address)
    try:
        workers = _workers(client, address)
    except NoExecutorError:
        client.close()
        raise
    gone = (KilledWorker, OSError, RuntimeError)  # the last where the client has closed itself
    return Team(
        workers,
        lambda: client.get_executor(pure=False),  # no key is made of what is asked
        lambda executor: _leave(executor, client),
        gone,
    )


def _client(address: str) -> Any:
    from distributed import Client  # noqa: PLC0415

    made: Any = Client
    try:
        return made(f"tcp://{address}", timeout=CONNECT_S, set_as_default=False)
    except (OSError, ValueError) as error:
        raise NoExecutorError(f"no Dask scheduler answers at {address}") from error


def _workers(client: Any, address: str) -> int:
    """How many threads they have together. Raises NoExecutorError."""
    try:
        versions = set(client.run(version).values())
    except Exception as error:  # whatever a worker of somebody else's has to say
        raise NoExecutorError(f"a worker at {address} cannot run memreap: {error}") from error
    if not versions:
        raise NoExecutorError(f"the Dask scheduler at {address} has no worker")
    if versions != {__version__}:
        there = ", ".join(sorted(versions))
        raise NoExecutorError(f"the workers at {address} have memreap {there}, not {__version__}")
    return sum(client.nthreads().values())


def _leave(executor: Executor, client: Any) -> None:
    executor.shutdown(wait=False)
    client.close()
