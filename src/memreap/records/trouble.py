"""A record's trouble, said once while it lasts, and once more when it is over."""

from memreap.records.words import clipped
from memreap.run.voice import say

NOTED_MAX = 100


class Trouble:
    """What is wrong at present, by the name of what has it."""

    def __init__(self) -> None:
        """Nothing."""
        self._said: dict[str, str] = {}

    def note(self, who: str, why: object) -> None:
        """Say it, unless it was said already."""
        text = clipped(why)
        if self._said.get(who) != text:
            if len(self._said) >= NOTED_MAX:
                self._said.clear()
            self._said[who] = text
            say(f"{clipped(who)}: {text}")

    def over(self, who: str, text: str = "works again") -> None:
        """Say that it has passed, if there was anything."""
        if self._said.pop(who, None) is not None:
            say(f"{clipped(who)}: {clipped(text)}")
