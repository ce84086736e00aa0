"""A timeline as one HTML page that needs nothing else: no server, no network, no script.

``page.html`` is how it looks. Whatever comes from a process or a file is escaped here.
"""

from html import escape
from importlib.resources import files
from string import Template

from memreap.evidence.steps import steps, summary
from memreap.evidence.timeline import Timeline
from memreap.size import show


def page(timeline: Timeline, title: str, facts: str, svg: str) -> str:
    """The page. ``svg``: the picture, as a document of its own."""
    rows = "".join(
        f'<tr><td class="number">{f"{step.at_s * 1000:.3f} ms"}</td><td>{escape(step.who)}</td>'
        f'<td>{escape(step.what)}</td><td class="number">{escape(show(step.left_bytes))}</td></tr>'
        for step in steps(timeline)
    )
    template = files("memreap.evidence").joinpath("page.html").read_text(encoding="utf-8")
    return Template(template).substitute(
        title=escape(title),
        facts=escape(facts),
        picture=svg[svg.index("<svg") :],
        summary="".join(f"<li>{escape(line)}</li>" for line in summary(timeline)),
        rows=rows,
    )
