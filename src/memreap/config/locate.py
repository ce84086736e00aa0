"""On which line of a TOML file a key stands, which tomllib does not tell.

The text has been read by tomllib before: only well-formed TOML comes here.
"""

import re

Path = tuple[str | int, ...]

_BLANK = re.compile(r"(?:[ \t\r\n]+|#[^\n]*)*+")
_SPACE = re.compile(r"[ \t]*")
_BARE = re.compile(r"[A-Za-z0-9_-]+")
_BASIC = re.compile(r'"(?:[^"\\\n]|\\.)*+"')
_LITERAL = re.compile(r"'[^'\n]*'")
_ESCAPE = re.compile(r'\\(?:u([0-9A-Fa-f]{4})|U([0-9A-Fa-f]{8})|(["\\bfnrte])|x([0-9A-Fa-f]{2}))')
_ESCAPED = {
    '"': '"',
    "\\": "\\",
    "b": "\b",
    "f": "\f",
    "n": "\n",
    "r": "\r",
    "t": "\t",
    "e": "\x1b",
}
# A value ends at a newline outside of brackets. Strings may be empty, hold quotes, and end in two
# more of them.
_PIECE = re.compile(
    r'"""(?:[^"\\]|\\.|"(?!""))*+"{3,5}'
    r"|'''(?:[^']|'(?!''))*+'{3,5}"
    r'|"(?:[^"\\\n]|\\.)*+"'
    r"|'[^'\n]*+'"
    r"|#[^\n]*+"
    r"|[\[{]|[\]}]|\n"
    r"|[^\[\]{}\n#\"']++",
    re.DOTALL,
)


class Lines:
    """The lines of one text's keys."""

    def __init__(self, text: str) -> None:
        """``text``: as tomllib has read it."""
        self._text = text
        self._at = 0
        self._line = 1
        self._counted_to = 0
        self._arrays: dict[Path, int] = {}
        self._lines: dict[Path, int] = {}
        self._scan()

    def of(self, path: Path) -> int:
        """The line of a key, or of the nearest table around it; 1 where there is none.

        Entries of ``[[array]]`` are numbered: ``("cgroup", 0, "path")``.
        """
        for end in range(len(path), 0, -1):
            if path[:end] in self._lines:
                return self._lines[path[:end]]
        return 1

    def _scan(self) -> None:
        table: Path = ()
        while True:
            self._skip(_BLANK)
            if self._at >= len(self._text):
                return
            line = self._line_here()
            if self._text[self._at] == "[":
                table = self._header(line)
            else:
                self._note(table, self._keys(), line)
                self._at += 1  # the equals sign
                self._value()

    def _line_here(self) -> int:
        self._line += self._text.count("\n", self._counted_to, self._at)
        self._counted_to = self._at
        return self._line

    def _skip(self, pattern: re.Pattern[str]) -> str:
        match = pattern.match(self._text, self._at)
        assert match, "tomllib has read this text, so one of our patterns is wrong"
        self._at = match.end()
        return match[0]

    def _header(self, line: int) -> Path:
        several = self._text.startswith("[[", self._at)
        self._at += 2 if several else 1
        *above, last = self._keys()
        self._at += 2 if several else 1
        path: Path = ()
        for key in above:
            path = self._last_entry((*path, key))
            self._lines.setdefault(path, line)
        path = (*path, last)
        if not several:
            path = self._last_entry(path)
            self._lines[path] = line
            return path
        self._lines.setdefault(path, line)
        self._arrays[path] = self._arrays.get(path, -1) + 1
        path = (*path, self._arrays[path])
        self._lines[path] = line
        return path

    def _last_entry(self, path: Path) -> Path:
        """What a header below ``[[array]]`` belongs to."""
        return (*path, self._arrays[path]) if path in self._arrays else path

    def _note(self, table: Path, keys: list[str], line: int) -> None:
        path = table
        for key in keys:
            path = (*path, key)
            self._lines.setdefault(path, line)

    def _keys(self) -> list[str]:
        keys: list[str] = []
        while True:
            self._skip(_SPACE)
            keys.append(self._key())
            self._skip(_SPACE)
            if not self._text.startswith(".", self._at):
                return keys
            self._at += 1

    def _key(self) -> str:
        quote = self._text[self._at]
        if quote == '"':
            return _ESCAPE.sub(_unescape, self._skip(_BASIC)[1:-1])
        return self._skip(_LITERAL)[1:-1] if quote == "'" else self._skip(_BARE)

    def _value(self) -> None:
        depth = 0
        while self._at < len(self._text):
            piece = self._skip(_PIECE)
            if piece in "[{":
                depth += 1
            elif piece in "]}":
                depth -= 1
            elif piece == "\n" and depth == 0:
                return


def _unescape(match: re.Match[str]) -> str:
    code = match[1] or match[2] or match[4]
    return chr(int(code, 16)) if code else _ESCAPED[match[3]]


def line_of(text: str, path: Path) -> int:
    """The line of one key."""
    return Lines(text).of(path)
