// The page: a matrix, and the scenarios of a cell. ``chart.js``, before it, draws a run.
//
// Everything is drawn from the JSON in the page, and becomes text nodes and attributes: nothing is
// ever taken for markup. Where one is stands in the address: #design/scenario/property.

const told = read(JSON.parse(document.getElementById("data").textContent));

// ---- What is told

function read(data) {
  const text = (number) => (number < 0 ? null : data.strings[number]);
  const steps = data.steps.map(([task, operation, result, preempts, breaks, ...changes]) => ({
    task: text(task),
    operation: text(operation),
    result: text(result),
    preempts: Boolean(preempts),
    breaks: text(breaks),
    changes: triples(changes.map(text)),
  }));
  const runs = data.runs.map(([verdict, why, tasks, path, cycle, waiting]) => ({
    verdict: text(verdict),
    why: text(why),
    tasks: tasks.map(text),
    steps: path.map((number) => steps[number]),
    cycle: cycle.map((number) => steps[number]),
    waiting: waiting.map(text),
  }));
  const rows = data.rows.map(([design, scenario, prop, verdict, states, transitions, ...rest]) => ({
    design: data.designs[design],
    scenario: data.scenarios[scenario],
    property: data.properties[prop],
    verdict: text(verdict),
    states,
    transitions,
    steps: rest[0] < 0 ? null : rest[0],
    run: rest[1] < 0 ? null : runs[rest[1]],
  }));
  const { designs, scenarios, properties } = data;
  return { designs, scenarios, properties, rows, runs };
}

function triples(flat) {
  const found = [];
  for (let i = 0; i < flat.length; i += 3) {
    found.push({ variable: flat[i], now: flat[i + 1], was: flat[i + 2] });
  }
  return found;
}

const cells = new Map();
for (const row of told.rows) {
  const key = address(row.design.name, "", row.property.name);
  if (!cells.has(key)) cells.set(key, []);
  cells.get(key).push(row);
}

function cellOf(design, property) {
  return cells.get(address(design.name, "", property.name)) || [];
}

function verdictOf(rows) {
  if (rows.some((row) => row.verdict === "violated")) return "violated";
  return rows.every((row) => row.verdict === "holds") ? "holds" : "bounded";
}

function nearest(rows) {
  const broken = rows.filter((row) => row.verdict === "violated");
  return broken.sort((a, b) => a.steps - b.steps)[0] || null;
}

// ---- Words

function address(design, scenario, property) {
  return "#" + [design, scenario, property].map(encodeURIComponent).join("/");
}

function brief(number) {
  if (number < 1000) return String(number);
  const [scaled, unit] = number < 999500 ? [number / 1000, "k"] : [number / 1e6, "M"];
  return (scaled < 9.95 ? scaled.toFixed(1) : scaled.toFixed(0)) + unit;
}

// Docstrings: ``code``, *stress*, and an empty line between paragraphs.
function prose(text, attributes) {
  return text.split(/\n\s*\n/).filter(Boolean).map((paragraph) => {
    const made = element("p", attributes);
    for (const part of paragraph.split(/(``.+?``|\*[^*\s][^*]*\*)/s)) {
      if (part.startsWith("``")) made.append(element("code", {}, part.slice(2, -2)));
      else if (/^\*.+\*$/s.test(part)) made.append(element("em", {}, part.slice(1, -1)));
      else made.append(part);
    }
    return made;
  });
}

function by(design) {
  return [design.who, design.when].filter(Boolean).join(" · ");
}

// ---- The matrix

function drawFacts() {
  const once = new Map(told.rows.map((row) => [`${row.design.name}\n${row.scenario.name}`, row]));
  const sum = (what) => [...once.values()].reduce((total, row) => total + row[what], 0);
  const facts = [
    [told.designs.length, "design"],
    [told.scenarios.length, "scenario"],
    [told.properties.length, "thing asked", "things asked"],
    [sum("states"), "state"],
    [sum("transitions"), "transition"],
    [told.rows.filter((row) => row.verdict === "violated").length, "counterexample"],
  ];
  facts.forEach(([number, one, many], place) => {
    const word = number === 1 ? one : many || `${one}s`;
    document.getElementById("facts").append(
      place ? " · " : "", element("b", {}, grouped(number)), ` ${word}`,
    );
  });
}

function drawMatrix() {
  const heads = told.properties.map((property) =>
    element("th", { class: "prop", scope: "col", title: property.says },
      element("span", {}, property.short)));
  const body = told.designs.map((design) => element("tr", {},
    element("th", { class: "name", scope: "row", title: by(design) },
      element("b", { class: design.own ? "own" : null }, design.name),
      element("small", {}, by(design))),
    ...told.properties.map((property) => drawCell(design, property))));
  const table = element("table", { class: "matrix" },
    element("thead", {}, element("tr", {}, element("th", { class: "name" }), ...heads)),
    element("tbody", {}, ...body));
  table.style.maxWidth = `${206 + 120 * told.properties.length}px`; // few columns stay narrow
  const about = element("p", { id: "about" });
  const keys = element("p", { class: "keys" },
    element("span", { class: "holds" }, "holds"),
    element("span", { class: "violated" }, "violated"),
    told.rows.some((row) => row.verdict === "bounded")
      ? element("span", { class: "bounded" }, "not all states seen") : null,
    element("span", { class: "blank" }, "not asked"));
  const place = document.getElementById("matrix");
  place.className = "card";
  place.append(table, element("div", { class: "told" }, about, keys));
  watch(table);
  tellOf(null, null);
}

function drawCell(design, property) {
  const rows = cellOf(design, property);
  if (!rows.length) return element("td");
  const verdict = verdictOf(rows);
  const broken = rows.filter((row) => row.verdict === "violated").length;
  const states = rows.reduce((total, row) => total + row.states, 0);
  const big = { holds: "✓", bounded: "?", violated: `${broken}/${rows.length}` }[verdict];
  const small = verdict === "violated" ? `${nearest(rows).steps} steps` : brief(states);
  const link = element("a", {
    class: `cell ${verdict}`,
    href: address(design.name, "", property.name),
    tabindex: -1,
    "aria-label": `${design.name}, ${property.name}: ${summary(rows)}`,
  }, element("span", {}, big), element("small", {}, small));
  return element("td", {}, link);
}

function summary(rows) {
  const broken = rows.filter((row) => row.verdict === "violated").length;
  const states = rows.reduce((total, row) => total + row.states, 0);
  const where = `${broken ? `${broken} of ` : ""}${counted(rows.length, "scenario")}`;
  if (broken) {
    return `violated in ${where}, in ${counted(nearest(rows).steps, "step")} at the least`;
  }
  const all = verdictOf(rows) === "holds" ? "holds in" : "not violated in what was seen of";
  return `${all} ${where}, ${counted(states, "state")}`;
}

// The line below the matrix says what the pointer, or the keyboard, is at.
function tellOf(design, property) {
  const about = document.getElementById("about");
  about.replaceChildren();
  if (!design && !property) {
    about.append("A cell leads to its scenarios, and to a shortest run that breaks what is asked.");
    return;
  }
  if (property) about.append(element("b", {}, property.name), ` ${property.says} `);
  if (design) about.append(element("b", {}, design.name), ` ${by(design)}. `);
  const rows = design && property ? cellOf(design, property) : [];
  if (rows.length) about.append(`${capital(summary(rows))}.`);
}

function watch(table) {
  const light = (target) => {
    const at = target && target.closest("td, th");
    const row = at ? at.parentNode.rowIndex - 1 : -1;
    const column = at ? at.cellIndex - 1 : -1;
    for (const lit of table.querySelectorAll(".lit")) lit.classList.remove("lit");
    if (row >= 0) table.rows[row + 1].cells[0].classList.add("lit");
    if (column >= 0) table.rows[0].cells[column + 1].classList.add("lit");
    tellOf(told.designs[row] || null, told.properties[column] || null);
  };
  table.addEventListener("pointerover", (event) => light(event.target));
  table.addEventListener("pointerleave", () => light(null));
  table.addEventListener("focusin", (event) => {
    stand(table, event.target);
    light(event.target);
  });
  table.addEventListener("keydown", (event) => walk(table, event));
  stand(table, table.querySelector("a"));
}

// One cell takes part in Tab's order; arrows go from cell to cell.
function stand(table, link) {
  for (const other of table.querySelectorAll('a[tabindex="0"]')) other.tabIndex = -1;
  if (link) link.tabIndex = 0;
}

const ARROWS = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };

function walk(table, event) {
  const step = ARROWS[event.key];
  const at = event.target.closest("td");
  if (!step || !at) return;
  event.preventDefault();
  let row = at.parentNode.rowIndex + step[0];
  let column = at.cellIndex + step[1];
  while (table.rows[row] && table.rows[row].cells[column]) {
    const link = table.rows[row].cells[column].querySelector("a.cell");
    if (link) {
      link.focus();
      return;
    }
    row += step[0];
    column += step[1];
  }
}

function drawLegend() {
  const place = document.getElementById("legend");
  place.className = "card legend";
  place.append(element("h2", {}, "What the columns say"), element("dl", {},
    ...told.properties.map((property) => element("div", {},
      element("dt", {}, property.short), element("dd", {}, property.says)))));
}

// ---- A cell: its scenarios

let shown = { design: null, property: null };

function route() {
  const parts = location.hash.slice(1).split("/").map(decoded);
  const design = told.designs.find((one) => one.name === parts[0]);
  const property = told.properties.find((one) => one.name === parts[2]);
  const rows = design && property ? cellOf(design, property) : [];
  const place = document.getElementById("detail");
  for (const link of document.querySelectorAll(".cell[aria-current]")) {
    link.removeAttribute("aria-current");
  }
  if (!rows.length) {
    shown = { design: null, property: null };
    place.className = "";
    place.replaceChildren();
    return;
  }
  const row = rows.find((one) => one.scenario.name === parts[1]) || nearest(rows) || rows[0];
  const isNew = shown.design !== design || shown.property !== property;
  shown = { design, property };
  if (isNew) drawDetail(place, design, property, rows);
  drawRun(row);
  markCurrent(design, property, row);
  if (isNew) arrive(place);
}

function decoded(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part; // a hand-written address
  }
}

function markCurrent(design, property, row) {
  const here = address(design.name, "", property.name);
  for (const link of document.querySelectorAll(".cell")) {
    if (link.getAttribute("href") === here) link.setAttribute("aria-current", "true");
  }
  for (const line of document.querySelectorAll(".scenarios tbody tr")) {
    if (line.dataset.scenario === row.scenario.name) {
      line.setAttribute("aria-current", "true");
      showIn(line.closest(".scenarios-box"), line);
    } else line.removeAttribute("aria-current");
  }
  document.title = `${design.name} / ${row.scenario.name} / ${property.name} · memreap check`;
}

// In a list that scrolls by itself; the page stays where it is.
function showIn(box, line) {
  const [top, bottom] = [line.offsetTop, line.offsetTop + line.offsetHeight];
  if (top < box.scrollTop || bottom > box.scrollTop + box.clientHeight) box.scrollTop = top - 60;
}

function arrive(place) {
  place.querySelector("h2").focus({ preventScroll: true });
  place.scrollIntoView({ block: "start" });
}

function drawDetail(place, design, property, rows) {
  place.className = "card";
  const verdict = verdictOf(rows);
  place.replaceChildren(
    element("div", { class: "heading" },
      element("h2", { tabindex: -1 }, design.name, element("span", {}, " · "), property.name),
      element("a", { class: "back", href: "#" }, "↑ all designs")),
    element("p", { class: "by" }, by(design)),
    ...prose(design.says, { class: "says" }),
    element("p", { class: "asked" },
      element("span", { class: `tag ${verdict}` }, verdict),
      property.says, " ", element("span", { class: "by" }, capital(summary(rows)) + ".")),
    element("div", { class: "two" },
      element("div", { class: "scenarios-box" }, drawScenarios(design, property, rows)),
      element("article", { class: "run", id: "run" })));
}

function capital(text) {
  return text.charAt(0).toUpperCase() + text.slice(1);
}

function drawScenarios(design, property, rows) {
  const kind = { violated: "bad", bounded: "unknown", holds: "" };
  const order = [...rows].sort((a, b) =>
    (a.verdict === "violated" ? a.steps : 1e9) - (b.verdict === "violated" ? b.steps : 1e9));
  return element("table", { class: "scenarios" },
    element("thead", {}, element("tr", {},
      ...["scenario", "states", "transitions", "steps"].map((head) =>
        element("th", { scope: "col" }, head)))),
    element("tbody", {}, ...order.map((row) =>
      element("tr", { class: kind[row.verdict], "data-scenario": row.scenario.name },
        element("td", {}, element("a", {
          href: address(design.name, row.scenario.name, property.name),
          title: row.scenario.says,
          "aria-label": `${row.scenario.name}: ${row.verdict}`,
        }, row.scenario.name)),
        element("td", {}, grouped(row.states)),
        element("td", {}, grouped(row.transitions)),
        element("td", {}, row.steps === null ? "–" : String(row.steps))))));
}

// ---- A run

let redraw = null;

function drawRun(row) {
  const place = document.getElementById("run");
  const { run, scenario } = row;
  redraw = null;
  place.replaceChildren(
    element("h3", {}, scenario.name),
    element("p", { class: "what" }, scenario.says));
  if (row.verdict !== "violated") {
    const holds = row.verdict === "holds";
    place.append(element("p", { class: `verdict ${holds ? "is-ok" : ""}` },
      holds ? "Holds" : "Not violated, and not all was seen",
      `: ${counted(row.states, "state")}, ${counted(row.transitions, "transition")}.`),
    element("p", { class: "rest" }, `Who takes part: ${scenario.cast.join(", ")}.`));
    return;
  }
  if (!run) {
    place.append(element("p", { class: "verdict is-bad" },
      `Violated in ${counted(row.steps, "step")}; the run is not in this page.`));
    return;
  }
  const chart = element("div", { class: "chart" });
  place.append(
    element("p", { class: "verdict is-bad" }, capital(run.verdict) + "."), chart,
    element("details", {}, element("summary", {}, "The same as text"),
      element("pre", { tabindex: 0 }, asText(run))));
  redraw = () => drawChart(chart, run);
  redraw();
}

// ---- Begin

drawFacts();
drawMatrix();
drawLegend();
route();
window.addEventListener("hashchange", route);
window.addEventListener("keydown", (event) => {
  if (event.key !== "Escape" || !shown.design) return;
  const link = document.querySelector(".cell[aria-current]");
  if (link) link.focus();
});
let lastWidth = window.innerWidth;
window.addEventListener("resize", () => {
  if (redraw && window.innerWidth !== lastWidth) redraw();
  lastWidth = window.innerWidth;
});
