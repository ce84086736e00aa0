"""Figures for Prometheus: a text file for node_exporter, or HTTP. Needs memreap[metrics].

Only which metrics there are lives here. A label is a domain or an outcome, never a stranger's
name: every process would be a time series of its own. Domains come and go with cgroups, so
their number is bounded too.
"""

import contextlib
import os
import time
from typing import Any

from memreap import __version__
from memreap.records.outlet import Outlet
from memreap.records.trouble import Trouble
from memreap.records.turn import Course, Turn, figure
from memreap.records.words import clipped

DOMAINS_MAX = 200
OTHER = "(other)"
WRITE_EVERY_S = 5.0
BUCKETS_S = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
OUTCOMES = ("exited", "reaped", "stuck", "refused")


class Metrics(Outlet):
    """Counts turns, shows the last figures."""

    name = "metrics"

    def __init__(self, file: str, listen: str, trouble: Trouble) -> None:
        """Begin. Raises ImportError without the library, OSError or ValueError if unheard."""
        from prometheus_client import (  # noqa: PLC0415
            CollectorRegistry,
            Counter,
            Gauge,
            Histogram,
            Info,
            generate_latest,
        )

        self._file, self._trouble, self._generate = file, trouble, generate_latest
        self.registry = CollectorRegistry()
        own: dict[str, Any] = {"registry": self.registry, "namespace": "memreap"}
        domain = ("domain",)
        self._gauges = {
            "usage_bytes": Gauge("domain_usage_bytes", "What a domain uses.", domain, **own),
            "limit_bytes": Gauge("domain_limit_bytes", "Where its line is.", domain, **own),
            "stall_share": Gauge(
                "stall_share", "Share of the time all stood still for memory.", domain, **own
            ),
        }
        self._incidents = Counter("incidents_total", "Incidents begun.", domain, **own)
        self._kills = Counter("kills_total", "Victims, by their end.", ("domain", "outcome"), **own)
        self._seconds = Histogram(
            "release_seconds", "From decision to release.", buckets=BUCKETS_S, **own
        )
        self._released = Counter("released_bytes_total", "What victims gave back.", **own)
        self._skipped = Counter("skipped_total", "Victims passed over.", **own)
        self._helpless = Counter("helpless_total", "Times nobody could be killed.", **own)
        self._scouts = Gauge("scout_restarts_total", "Scouts that were replaced.", **own)
        Info("memreap", "This guard.", registry=self.registry).info({"version": __version__})
        self._domains: dict[str, str] = {}
        self._incident = 0
        self._dirty_s: float | None = time.monotonic() if file else None
        self._server: Any = None
        if listen:
            self._listen(listen)

    def take(self, turn: Turn, course: Course | None) -> None:
        """Count it."""
        is_ours = course is None or not course.only_awaited(turn.get("victim") or {})
        domain, number = self._label(turn["domain"]), turn.get("incident") or 0
        match turn["what"]:
            case "pressed" if number > self._incident:
                self._incident = number
                self._incidents.labels(domain).inc()
            case "outcome":
                kind = (turn.get("outcome") or {}).get("outcome")
                self._kills.labels(domain, kind if kind in OUTCOMES else OTHER).inc()
            case "released" if is_ours:
                self._released.inc(max(0.0, figure(turn, "released_bytes") or 0.0))
                if (took_s := figure(turn, "seconds")) is not None:
                    self._seconds.observe(took_s)
            case "skipped":
                self._skipped.inc()
            case "helpless":
                self._helpless.inc()
        self._touch()

    def gauges(self, status: Turn) -> None:
        """Show the present, of the domains there are now."""
        for gauge in self._gauges.values():
            gauge.clear()
        for domain in list(status.get("domains") or ())[:DOMAINS_MAX]:
            label = clipped(domain["name"], 200)
            for name, gauge in self._gauges.items():
                if domain.get(name) is not None:
                    gauge.labels(label).set(domain[name])
        self._scouts.set((status.get("scout") or {}).get("restarts") or 0)
        self._touch()

    def due_s(self) -> float | None:
        """When the file is to be written."""
        return self._dirty_s

    def attend(self, ready: dict[int, int], now_s: float) -> None:
        """Write the file if it is due."""
        del ready
        if self._dirty_s is None or now_s < self._dirty_s:
            return
        self._dirty_s = None
        who = f"metrics {self._file}"
        try:
            write(self._file, self._generate(self.registry))
        except OSError as error:
            self._dirty_s = now_s + WRITE_EVERY_S
            self._trouble.note(who, f"cannot be written: {error.strerror}")
        else:
            self._trouble.over(who)

    def close(self) -> None:
        """Leave no figures of a guard that is gone, and listen no longer."""
        if self._file:
            with contextlib.suppress(OSError):
                os.unlink(self._file)  # noqa: PTH108
        if self._server:
            self._server.shutdown()
            self._server.server_close()

    def _touch(self) -> None:
        if self._file and self._dirty_s is None:
            self._dirty_s = time.monotonic() + WRITE_EVERY_S

    def _label(self, domain: object) -> str:
        name = clipped(domain, 200)
        if name not in self._domains and len(self._domains) >= DOMAINS_MAX:
            return OTHER
        return self._domains.setdefault(name, name)

    def _listen(self, listen: str) -> None:
        from prometheus_client import start_wsgi_server  # noqa: PLC0415

        host, port = address(listen)
        self._server, _ = start_wsgi_server(port, host, self.registry)


def address(listen: str) -> tuple[str, int]:
    """Host and port of ``127.0.0.1:9469``, ``[::1]:9469``, ``:9469`` or ``9469``: this machine."""
    host, _, port = listen.rpartition(":")
    if not port.isascii() or not port.isdigit():
        raise ValueError(f"not an address: {clipped(listen, 80)} (say 127.0.0.1:9469)")
    return host.strip("[]") or "127.0.0.1", int(port)


def write(path: str, text: bytes) -> None:
    """Replace a file whole: who reads sees the old one or the new one. Raises OSError."""
    beside = f"{path}.{os.getpid()}"  # not *.prom: the collector does not read it
    try:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(beside)  # noqa: PTH108
        # Never through a link that somebody else put there.
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(beside, flags, 0o644)
        with open(fd, "wb") as file:
            os.fchmod(fd, 0o644)
            file.write(text)
        os.rename(beside, path)  # noqa: PTH104
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(beside)  # noqa: PTH108
        raise
