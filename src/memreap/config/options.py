"""What the command line said of the guard."""

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Options:
    """Each as it was given; None, False or empty where it was not."""

    system: bool = False
    cgroups: tuple[str, ...] = ()
    trees: tuple[int, ...] = ()
    own: bool = False
    limit: str | None = None  # of the cgroups and trees above
    config: str | None = None  # only this file
    patience_s: float | None = None
    term_first_s: float | None = None
    dry_run: bool = False
    quiet: bool = False
    database: str | None = None
    socket: str | None = None

    @property
    def has_scopes(self) -> bool:
        """Whether the command line says what to guard: the files then do not."""
        return bool(self.system or self.own or self.cgroups or self.trees)

    def as_message(self) -> dict[str, Any]:
        """As JSON can carry it."""
        return asdict(self)

    @classmethod
    def from_message(cls, message: dict[str, Any]) -> "Options":
        """The inverse of ``as_message``. Raises TypeError for what is none."""
        fields: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in message.items()
        }
        return cls(**fields)

    def as_document(self) -> dict[str, Any]:
        """The same as a file would say it: the last one that is read."""
        guard = {
            "patience": self.patience_s,
            "term_first": self.term_first_s,
            "dry_run": self.dry_run or None,
            "quiet": self.quiet or None,
        }
        once: dict[str, dict[str, Any]] = {
            "guard": guard,
            "system": {"enabled": self.system or None},
            "own": {"enabled": self.own or None},
            "records": {"database": self.database, "socket": self.socket},
        }
        several: dict[str, list[dict[str, Any]]] = {
            "cgroup": [{"path": path, "limit": self.limit} for path in dict.fromkeys(self.cgroups)],
            "tree": [{"pid": pid, "limit": self.limit} for pid in dict.fromkeys(self.trees)],
        }
        return {
            **{name: _given(table) for name, table in once.items()},
            **{name: [_given(entry) for entry in entries] for name, entries in several.items()},
        }


def _given(table: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in table.items() if value is not None}
