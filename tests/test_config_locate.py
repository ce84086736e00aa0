"""On which line a key stands: against TOML that is written line by line."""

import tomllib
from dataclasses import dataclass, field
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from memreap.config.locate import Lines, Path, line_of
from memreap.config.toml import literal

DOCUMENT = r'''
# a comment with [brackets] = 1
top = 1
"quoted.key" = 2
'literal key'=3
dotted.inner . deep = 4
text = """
[not.a.table]
not_a_key = 1
\""" still """
after = 5
raw = ~~~
[[neither]]
'~~~
quotes = """a"""""
empty = """"""
list = [ # a comment with ]
  "]", '[', { a = 1 },
  [1, 2],
]
inline = { a = 1, b = { c = 2 } }

[guard] # one
patience = "2s"

[[cgroup]]
path = "/a"
[cgroup.more]
x = 1
[[cgroup.sub]]
y = 1
[[cgroup.sub]]
y = 2
[[ "cgroup" ]]
path = "/b"
[cgroup.more]
x = 2
[a.b.c]
z = 1
last = 1'''.replace("~~~", "'''")


def line_with(text: str, number: int = 1) -> int:
    lines = [i for i, line in enumerate(DOCUMENT.split("\n"), 1) if line.startswith(text)]
    return lines[number - 1]


def test_every_kind_of_line() -> None:
    tomllib.loads(DOCUMENT)
    lines = Lines(DOCUMENT)
    expected: dict[Path, int] = {
        ("top",): line_with("top"),
        ("quoted.key",): line_with('"quoted'),
        ("literal key",): line_with("'literal"),
        ("dotted",): line_with("dotted"),
        ("dotted", "inner", "deep"): line_with("dotted"),
        ("text",): line_with("text"),
        ("after",): line_with("after"),
        ("raw",): line_with("raw"),
        ("quotes",): line_with("quotes"),
        ("empty",): line_with("empty"),
        ("list", 2, 0): line_with("list"),
        ("inline", "b", "c"): line_with("inline"),
        ("guard",): line_with("[guard]"),
        ("guard", "patience"): line_with("patience"),
        ("guard", "absent"): line_with("[guard]"),
        ("cgroup",): line_with("[[cgroup]]"),
        ("cgroup", 0, "path"): line_with('path = "/a"'),
        ("cgroup", 0, "more", "x"): line_with("x = 1"),
        ("cgroup", 0, "sub", 0, "y"): line_with("y = 1"),
        ("cgroup", 0, "sub", 1, "y"): line_with("y = 2"),
        ("cgroup", 1): line_with('[[ "cgroup" ]]'),
        ("cgroup", 1, "path"): line_with('path = "/b"'),
        ("cgroup", 1, "more", "x"): line_with("x = 2"),
        ("a", "b"): line_with("[a.b.c]"),
        ("a", "b", "c", "last"): line_with("last"),
        ("nowhere", "at", "all"): 1,
    }
    assert {path: lines.of(path) for path in expected} == expected
    assert line_of(DOCUMENT.replace("\n", "\r\n"), ("a", "b", "c", "z")) == line_with("z = 1")


def test_unicode_in_quoted_keys() -> None:
    text = 'a = 1\n"\\u0062\\"\\U00000063" = 2\n'
    (_, key) = tomllib.loads(text)
    assert line_of(text, (key,)) == 2


def test_an_empty_text_has_one_line() -> None:
    assert line_of("", ("a",)) == 1
    assert line_of("# no end", ("a",)) == 1


@dataclass
class Writer:
    """Writes TOML at random and notes on which line each leaf went."""

    draw: Any
    text: str = ""
    expected: dict[Path, int] = field(default_factory=dict)

    def line(self) -> int:
        return self.text.count("\n") + 1

    def trivia(self) -> None:
        self.text += self.draw(
            st.sampled_from(["", "\n", "# [x]\n", " \t\n", '# "\n', "# '''\n", "\r\n"])
        )

    def key(self, name: str) -> str:
        bare = name.isascii() and name.replace("-", "").replace("_", "").isalnum()
        forms = [literal(name)]
        if bare:
            forms.append(name)
        if "'" not in name and name.isprintable():
            forms.append(f"'{name}'")
        form: str = self.draw(st.sampled_from(forms))
        return form

    def leaves(self, path: Path) -> None:
        names = self.draw(st.lists(NAMES, max_size=4, unique=True))
        for name in names:
            self.trivia()
            dotted = self.draw(st.lists(NAMES, max_size=2))
            # A first part of its own for each, so that no two keys get into each other's way.
            parts = [f"k{name}", *dotted]
            gap = self.draw(st.sampled_from(["", " ", "\t"]))
            self.expected[(*path, *parts)] = self.line()
            value = self.draw(VALUES)
            keys = f"{gap}.{gap}".join(map(self.key, parts))
            self.text += f"{gap}{keys}{gap}={gap}{value}{gap}\n"


NAMES = st.text(min_size=0, max_size=5).filter(lambda s: s.isprintable())
VALUES = st.sampled_from(
    [
        "1",
        "true",
        "1979-05-27T07:32:00Z",
        '"a # b"',
        '"\\""',
        "'\"'",
        '""',
        "''",
        '"""\n[x]\na = 1\n"""',
        '"""""a"""""',
        '"""a""""',
        "'''a''''",
        '"""\\"""\\\n  """',
        "'''\n'[[x]]'\n'''",
        "'''''a'''''",
        "[1, # ]\n [2],\n]",
        "[\n'[',\n\"]\"]",
        "{ a = 1, 'b.c' = [1, 2] }",
        "[ { a = '''\n}''' } ]",
        "[] # [",
    ]
)


@st.composite
def documents(draw: Any) -> Writer:
    writer = Writer(draw)
    writer.leaves(())
    for index in range(draw(st.integers(0, 3))):
        writer.trivia()
        name, sub = f"t{index}{draw(NAMES)}", draw(NAMES)
        if draw(st.booleans()):
            writer.text += f"[{writer.key(name)} . {writer.key(sub)}]\n"
            writer.leaves((name, sub))
            continue
        for entry in range(draw(st.integers(1, 3))):
            writer.trivia()
            writer.text += f"[[ {writer.key(name)}]] # [\n"
            writer.leaves((name, entry))
            if draw(st.booleans()):
                writer.text += f"[{writer.key(name)}.{writer.key(sub)}]\n"
                writer.leaves((name, entry, sub))
    return writer


@settings(max_examples=150, deadline=None)
@given(documents())
def test_any_toml(writer: Writer) -> None:
    tomllib.loads(writer.text)
    lines = Lines(writer.text)
    assert {path: lines.of(path) for path in writer.expected} == writer.expected
