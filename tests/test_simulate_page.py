"""The page and the charts: what is in them, that nothing gets out, and that a browser draws it."""

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.chromium import needs_a_browser, opened

from memreap.simulate import board, chart, labels
from memreap.simulate.chart import family, patience_s, shape, x_ticks, y_ticks
from memreap.simulate.costs import calibrated
from memreap.simulate.drawing import Mark, Text
from memreap.simulate.drawing import Path as Line
from memreap.simulate.frontier import NodeRow, Rate, Row, Time
from memreap.simulate.labels import Box
from memreap.simulate.page import page
from memreap.simulate.strategies import CLAIRVOYANT, STRATEGIES
from memreap.simulate.svg import svg

HOSTILE = "</svg></style><script>alert(1)</script><img src=x onerror=alert(2)>&\"'"
NO_RATE = Rate(0.0, 0.0, 0.1)


def row(strategy: str, relief_s: float | None, needless: float = 0.0, **changes: object) -> Row:
    low_s = None if relief_s is None else relief_s / 1.2
    made = Row(
        scenario="made",
        strategy=strategy,
        trials=10,
        incidents=10,
        relief=Time(relief_s, low_s, None if relief_s is None else relief_s * 1.2),
        relief_mean_s=relief_s or 60.0,
        unrelieved=NO_RATE,
        needless=Rate(needless, needless * 0.8, needless * 1.2 + 0.1),
        needless_strict=NO_RATE,
        needless_lenient=NO_RATE,
        kills=NO_RATE,
        nodes=(),
        on_frontier=False,
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def every() -> list[Row]:
    """All strategies, spread; one without relief, two on the frontier."""
    rows = [
        row(name, 0.01 * 1.5**number, 5.0 / (number + 1)) for number, name in enumerate(STRATEGIES)
    ]
    rows[1] = row("gate-retry", None)
    rows[2] = replace(rows[2], on_frontier=True)
    rows[5] = replace(rows[5], on_frontier=True)
    return rows


class Elements(HTMLParser):
    """Every element, with its attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.names: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)
        self.attributes += attrs


# The chart.


def test_a_strategy_has_a_family_a_patience_and_a_mark() -> None:
    assert {family(name) for name in STRATEGIES} == {
        "kernel",
        "patience",
        "domain",
        "guard",
        "bound",
    }
    assert (family("guard-0.25"), patience_s("guard-0.25"), shape("guard-0.25")) == (
        "guard",
        0.25,
        "circle",
    )
    assert shape(CLAIRVOYANT) == "star"


def test_everyone_has_a_mark_and_a_name_and_the_frontier_is_filled() -> None:
    drawing = chart.chart(every(), "made", "says")
    marks = [item for item in drawing.items if isinstance(item, Mark)]
    assert len(marks) == len(STRATEGIES)
    assert sum(mark.is_filled for mark in marks) == 2
    named = [item.text for item in drawing.items if isinstance(item, Text) and item.family]
    assert {"pre-4.14", "gate-retry", "kernel", "guard 2 s", "clairvoyant"} <= set(named)
    assert any(item.text == "none in 60 s" for item in drawing.items if isinstance(item, Text))


def test_the_soonest_is_left_and_the_needless_above() -> None:
    rows = [row("kernel", 1.0, 2.0), row("guard-1", 0.1, 0.0), row("patience-1", None, 1.0)]
    kernel, guard, never = (
        next(m for m in chart.chart(rows, "made").items if isinstance(m, Mark) and name in m.tip)
        for name in ("kernel", "guard", "patience")
    )
    assert guard.x < kernel.x < never.x
    assert kernel.y < never.y < guard.y


def test_what_lies_together_has_one_label() -> None:
    rows = [row(f"guard-{one}", 0.1) for one in ("0.1", "0.5", "1", "2")]
    rows += [row("patience-0.1", 0.1), row("patience-5", 0.1), row("patience-2", 9.0)]
    named = [i.text for i in chart.chart(rows, "made").items if isinstance(i, Text) and i.family]
    assert named[:2] == ["patience 0.1, 5 s", "guard 0.1\u20132 s"]
    assert named[2:] == ["patience 2 s"]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(sorted(STRATEGIES)),
            st.none() | st.floats(0.0002, 60),
            st.floats(0, 40),
        ),
        min_size=1,
        max_size=17,
        unique_by=lambda one: one[0],
    )
)
def test_nothing_is_drawn_outside(drawn: list[tuple[str, float | None, float]]) -> None:
    drawing = chart.chart([row(*one) for one in drawn], "made", "says")
    for item in drawing.items:
        points = item.points if isinstance(item, Line) else ((item.x, item.y),)
        for x, y in points:
            assert 0 <= x <= drawing.width
            assert 0 <= y <= drawing.height


@given(st.floats(1e-4, 10), st.floats(1.5, 1e4))
def test_ticks_are_few_and_within(low_s: float, times: float) -> None:
    ticks = x_ticks(low_s, low_s * times)
    assert len(ticks) <= 9
    assert all(low_s * 0.99 <= tick <= low_s * times * 1.01 for tick in ticks)


@given(st.floats(1, 100))
def test_kills_have_a_scale_that_begins_with_none(top: float) -> None:
    ticks = y_ticks(top)
    assert ticks[0] == 0
    assert 3 <= len(ticks) <= 8
    assert ticks[-1] <= top * 1.001


def test_labels_lie_on_nothing_where_there_is_room() -> None:
    marks = [(100.0 + 60 * n, 200.0) for n in range(5)]
    texts = [(at, ["guard 2 s", "patience 2 s"]) for at in marks]
    boxes = [one.box for one in labels.placed(texts, marks, [], Box(0, 0, 600, 400))]
    for number, box in enumerate(boxes):
        assert not any(box.covers(other) for other in boxes[number + 1 :])
        assert not any(box.has(mark) for mark in marks)


def test_an_empty_scenario_is_drawn() -> None:
    quiet = replace(row("kernel", None), incidents=0, needless=None)
    assert "0 incidents" in svg(chart.chart([quiet], "made"))


# The page.


def pages(says: str = "Says.") -> str:
    never = Time(None, None, None)
    nodes = (NodeRow("node0", 3, Time(0.1, 0.05, None), 0.2), NodeRow("node1", 2, never, 60.0))
    two = [replace(one, scenario="two", nodes=nodes) for one in every()]
    pooled = [replace(one, scenario="2 scenarios together") for one in every()]
    return page([*every(), *two], pooled, {"made": says, "two": says}, calibrated())


def test_every_scenario_has_a_chart_and_every_strategy_a_line() -> None:
    text = pages()
    elements = Elements(text)
    assert text.count('<section class="card">') == 1 + 2, "one of all, and one each"
    assert elements.names.count("table") == 4
    assert text.count("<tr") == 4 + 4 * len(STRATEGIES)
    assert "<td>100 ms</td><td>50 ms to none</td><td>200 ms</td>" in text
    for name in STRATEGIES:
        assert f'<td class="name">{name}</td>' in text
    cells = [board.cells(one) for one in every()]
    assert all(f"<td>{cell}</td>" in text for line in cells for cell in line[2:])


def test_nothing_is_loaded_and_nothing_runs() -> None:
    text = pages()
    elements = Elements(text)
    assert not {"script", "link", "img", "iframe", "object", "image", "use"} & set(elements.names)
    policy = next(v for k, v in elements.attributes if k == "content" and v and "default-src" in v)
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    names = {key for key, _ in elements.attributes}
    assert not {"style", "src", "href", "onload", "onclick"} & names
    assert "http" not in text.replace("http-equiv", "")
    assert "url(" not in text
    assert "@import" not in text


def test_no_name_is_taken_for_markup() -> None:
    rows = [replace(one, scenario=HOSTILE) for one in every()]
    costs = replace(calibrated(), machine=HOSTILE, kernel=HOSTILE, source=HOSTILE)
    text = page(rows, rows, {HOSTILE: HOSTILE}, costs)
    assert not {"script", "img"} & set(Elements(text).names)
    assert (
        Elements(text).names == Elements(page(every(), every(), {"made": "x"}, calibrated())).names
    )


def test_colours_are_named_for_light_and_dark() -> None:
    style = pages().partition("<style>")[2].partition("</style>")[0]
    light, _, dark = style.partition("prefers-color-scheme: dark")
    named = set(re.findall(r"(--[a-z]+): #", light.partition("}")[0]))
    assert named == set(re.findall(r"(--[a-z]+): #", dark.partition("}")[0]))
    assert set(re.findall(r"var\((--[a-z]+)\)", style)) - {"--hue", "--sans", "--mono"} <= named


@needs_a_browser
def test_a_browser_draws_it_and_has_nothing_to_complain_of(tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    file.write_text(pages(), encoding="utf-8")
    picture = f"--screenshot={tmp_path / 'page.png'}"
    _, said = opened(tmp_path / "profile", f"file://{file}", picture)
    assert said == []
    assert (tmp_path / "page.png").stat().st_size > 30_000
