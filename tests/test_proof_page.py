"""The page: what is in it, that nothing gets out of it, and that a browser draws it."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from tests.chromium import needs_a_browser, opened

from memreap.check.counterexample import Change, Counterexample, Step
from memreap.mm.kernel import Kernel
from memreap.mm.properties import Property
from memreap.proof.bring import Subjects, subjects
from memreap.proof.matrix import Answer, Pair, Row, answer
from memreap.proof.page import data, embedded, page

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\u2028&\"'"


class Hostile(Kernel):
    __doc__ = HOSTILE
    name = HOSTILE


class Elements(HTMLParser):
    """Every element, and the texts of scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.names: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)
        self.attributes += attrs
        if tag == "script":
            self.texts.append("")

    def handle_data(self, data: str) -> None:
        if self.names and self.names[-1] == "script":
            self.texts[-1] += data


@pytest.fixture(scope="module")
def real() -> list[Answer]:
    pairs = (("gate-retry", "aio-never"), ("pre-4.14", "lone"), ("4.17", "frozen"))
    return [answer(Pair(*pair, with_counterexamples=True)) for pair in pairs]


def hostile() -> tuple[list[Answer], Subjects]:
    known = subjects()
    scenario = replace(known.scenarios["lone"], name=f"{HOSTILE} s", says=HOSTILE)
    prop = Property(f"{HOSTILE} p", HOSTILE, HOSTILE)
    step = Step(HOSTILE, HOSTILE, HOSTILE, (Change(HOSTILE, HOSTILE, HOSTILE),), False, None)
    told = Counterexample(
        prop.name,
        HOSTILE,
        (HOSTILE, "b", "c"),
        (step, Step("b", HOSTILE * 3, None, (), True, HOSTILE)),
        (step,),
        (f"c waits in {HOSTILE}",),
    )
    row = Row(HOSTILE, scenario.name, prop.name, "violated", 1, 2, 0.1, 2)
    brought = Subjects(
        {**known.designs, HOSTILE: Hostile},
        {**known.scenarios, scenario.name: scenario},
        {**known.properties, prop.name: prop},
        "own.py",
        frozenset({HOSTILE}),
    )
    return [Answer(Pair(HOSTILE, scenario.name), (row,), {prop.name: told})], brought


def runs(told: dict[str, Any]) -> dict[tuple[str, str, str], Counterexample]:
    """The counterexamples, read back as the page reads them."""

    def text(number: int) -> Any:
        return None if number < 0 else told["strings"][number]

    def step(number: int) -> Step:
        task, operation, result, preempts, breaks, *flat = told["steps"][number]
        texts = [text(one) for one in flat]
        changes = tuple(Change(*texts[i : i + 3]) for i in range(0, len(texts), 3))
        return Step(
            text(task), text(operation), text(result), changes, bool(preempts), text(breaks)
        )

    found = {}
    for design, scenario, prop, *_, run in told["rows"]:
        if run < 0:
            continue
        _, why, tasks, path, cycle, waiting = told["runs"][run]
        names = tuple(
            told[kind][number]["name"]
            for kind, number in (
                ("designs", design),
                ("scenarios", scenario),
                ("properties", prop),
            )
        )
        found[names] = Counterexample(
            names[2],
            text(why),
            tuple(map(text, tasks)),
            tuple(map(step, path)),
            tuple(map(step, cycle)),
            tuple(map(text, waiting)),
        )
    return found


def read_back(text: str) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(Elements(text).texts[0])
    return told


def test_every_run_comes_back_as_it_was(real: list[Answer]) -> None:
    found = runs(read_back(page(real, subjects())))
    expected = {
        (one.pair.design, one.pair.scenario, prop): told
        for one in real
        for prop, told in one.counterexamples.items()
    }
    assert found == expected
    assert any(told.cycle for told in found.values())
    assert any(told.waiting for told in found.values())


def test_every_row_is_there_in_the_order_of_time(real: list[Answer]) -> None:
    told = data(real, subjects())
    assert [one["name"] for one in told["designs"]] == ["pre-4.14", "gate-retry", "4.17"]
    assert told["designs"][1]["who"] == "Andrea Arcangeli"
    assert [one["name"] for one in told["properties"]][:2] == ["torn-tree", "pgtables-in-use"]
    rows = [row for one in real for row in one.rows]
    assert len(told["rows"]) == len(rows)
    for row, shown in zip(rows, told["rows"], strict=True):
        assert told["strings"][shown[3]] == row.verdict
        assert shown[4:7] == [row.states, row.transitions, -1 if row.steps is None else row.steps]


def test_what_is_said_often_stands_once(real: list[Answer]) -> None:
    told = data(real, subjects())
    for kind in ("strings", "steps"):
        assert len(set(map(str, told[kind]))) == len(told[kind])


def test_rows_without_runs_are_a_page_too(real: list[Answer]) -> None:
    assert runs(data([Answer(one.pair, one.rows) for one in real], subjects())) == {}


def test_a_design_of_ones_own_is_by_nobody_else() -> None:
    answers, known = hostile()
    (design,) = data(answers, known)["designs"]
    assert (design["who"], design["when"], design["own"]) == ("", "", True)


def test_the_page_asks_nobody_for_anything(real: list[Answer]) -> None:
    text = page(real, subjects())
    assert not re.search(r"https?:|//cdn|@import|url\(|fetch\(|XMLHttp", text)
    elements = Elements(text)
    assert not {"link", "img", "iframe", "object", "embed", "base"} & set(elements.names)
    assert not {"src", "style", "onclick", "onload"} & {name for name, _ in elements.attributes}
    (policy,) = (value for _, value in elements.attributes if value and "default-src" in value)
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "unsafe" not in policy


def test_a_hostile_name_stays_a_name() -> None:
    answers, known = hostile()
    text = page(answers, known)
    elements = Elements(text)
    assert elements.names.count("script") == 2
    assert "img" not in elements.names
    assert "\u2028" not in text
    assert HOSTILE not in text
    (found,) = runs(read_back(text)).values()
    assert found == answers[0].counterexamples[found.prop]


def test_json_ends_no_element() -> None:
    value = {"<!--": "]]></script>&amp;\u2028\u2029\x00"}
    assert not set("<>&\u2028\u2029\x00") & set(embedded(value))
    assert json.loads(embedded(value)) == value


def drawn(tmp_path: Path, text: str, *address: str) -> tuple[str, str]:
    """The page as Chromium has drawn it, and what it said on its console."""
    file = tmp_path / "page.html"
    file.write_text(text, encoding="utf-8")
    where = f"file://{file}#{'/'.join(quote(part, safe='') for part in address)}"
    options = ("--virtual-time-budget=2000", "--dump-dom")
    document, said = opened(tmp_path / "profile", where, *options)
    return document, "\n".join(said)


@needs_a_browser
def test_a_browser_draws_the_run_that_an_address_names(tmp_path: Path, real: list[Answer]) -> None:
    prop = next(prop for prop, told in real[0].counterexamples.items() if told.cycle)
    told = real[0].counterexamples[prop]
    dom, said = drawn(tmp_path, page(real, subjects()), "gate-retry", "aio-never", prop)
    assert said == ""
    assert len(re.findall(r'<g class="step[ "]', dom)) == len(told.steps) + len(told.cycle)
    assert len(re.findall(r'class="waits"', dom)) == len(told.waiting)
    assert 'class="loop"' in dom
    assert dom.count('class="preempts"') == sum(
        step.preempts for step in (*told.steps, *told.cycle)
    )
    assert dom.count('class="cell ') == len(
        {(row.design, row.property) for one in real for row in one.rows}
    )


@needs_a_browser
def test_a_browser_takes_no_name_for_markup(tmp_path: Path) -> None:
    answers, known = hostile()
    pair = answers[0].pair
    (prop,) = answers[0].counterexamples
    dom, said = drawn(tmp_path, page(answers, known), pair.design, pair.scenario, prop)
    assert said == ""
    assert dom.count('<g class="step') == 3
    assert dom.count('class="step breaks"') == 1
    elements = Elements(dom)
    assert "img" not in elements.names
    assert elements.names.count("script") == 2
