"""Who took which pages of an mm, as ``rss_stat`` told it. Pure.

1. Only falls count: what an mm gains is nobody's doing here.
2. Who takes pages is a process, whose an mm is as well; what they are called is not known here.
3. Others exit as well: an mm that is nobody's is forgotten before there are too many.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

ACCOUNTS_MAX = 1024


@dataclass(slots=True)
class Account:
    """One mm's, from the first event on. Bytes, by member."""

    left: dict[str, int] = field(default_factory=dict)
    first: dict[str, tuple[int, int]] = field(default_factory=dict)  # left then, and whose doing
    freed: Counter[int] = field(default_factory=Counter)  # after that, by process

    def take(self, member: str, left_bytes: int, who: int) -> None:
        """Some pages were taken, and so much is left."""
        before = self.left.get(member)
        if before is None:
            self.first[member] = left_bytes, who
        elif left_bytes < before:
            self.freed[who] += before - left_bytes
        self.left[member] = left_bytes

    def freed_by(self, held_bytes: Mapping[str, int]) -> Counter[int]:
        """Bytes by process. ``held_bytes``: what there was before, where that is known."""
        freed = Counter(self.freed)
        for member, (left_bytes, who) in self.first.items():
            freed[who] += max(0, held_bytes.get(member, left_bytes) - left_bytes)
        return +freed


class Memory:
    """All mms that are emptied meanwhile."""

    def __init__(self) -> None:
        """None yet."""
        self._accounts: dict[int, Account] = {}  # by mm_id, which is used again once an mm is gone
        self._touched: dict[int, int] = {}  # the mm_id that a thread last took pages of
        self._owned: dict[int, int] = {}  # of a process
        self._closed: dict[int, Account] = {}  # of a process, its mm gone

    def take(self, mm_id: int, member: str, left_bytes: int, *, tid: int, who: int) -> None:
        """A thread of ``who`` took pages of an mm."""
        if mm_id not in self._accounts and len(self._accounts) >= ACCOUNTS_MAX:
            self.forget_strangers()
        self._touched[tid] = mm_id
        self._accounts.setdefault(mm_id, Account()).take(member, left_bytes, who)

    def own(self, mm_id: int, owner: int) -> None:
        """Now it is known whose that is; what was known last is right."""
        self._owned[owner] = mm_id

    def owner(self, tid: int) -> int | None:
        """Whose mm a thread last took pages of."""
        mm_id = self._touched.get(tid)
        return next((who for who, mine in self._owned.items() if mine == mm_id), None)

    def close(self, tid: int, who: int, owner: int | None, held: Mapping[str, int]) -> None:
        """A thread of ``who`` is done with exit_mmap: all that was left is taken, seen or not.

        ``owner``: whose it was; None: nobody's who is known, and the last that it touched.
        """
        touched = self._touched.pop(tid, -1)
        mm_id = touched if owner is None else self._owned.pop(owner, -1)
        account = self._accounts.pop(mm_id, None)
        if account is None or owner is None:
            return
        for member in {*held, *account.left}:
            account.take(member, 0, who)
        self._closed[owner] = account

    def freed_by(self, owner: int, held_bytes: Mapping[str, int]) -> Counter[int]:
        """Bytes of an owner's mm by process."""
        account = self._accounts.get(self._owned.get(owner, -1)) or self._closed.get(owner)
        return account.freed_by(held_bytes) if account is not None else Counter()

    def forget(self, owner: int) -> None:
        """It is gone."""
        self._accounts.pop(self._owned.pop(owner, -1), None)
        self._closed.pop(owner, None)

    def forget_strangers(self) -> None:
        """Whose is not known: as another one is marked, what was before is not its story."""
        owned = set(self._owned.values())
        self._accounts = {n: one for n, one in self._accounts.items() if n in owned}
        self._touched = {tid: n for tid, n in self._touched.items() if n in owned}
