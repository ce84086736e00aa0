// A run as a sequence chart. Downward the time; a lifeline a task; what it changes on the right.
//
// What makes elements lives here too: everything becomes a text node or an attribute.
"use strict";

const NS = document.getElementById("svg").namespaceURI;

// ---- Elements

function element(name, attributes = {}, ...children) {
  return filled(document.createElement(name), attributes, children);
}

function drawn(name, attributes = {}, ...children) {
  return filled(document.createElementNS(NS, name), attributes, children);
}

function filled(made, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined) made.setAttribute(name, value);
  }
  made.append(...children.filter((child) => child !== null));
  return made;
}

function counted(number, what) {
  return `${grouped(number)} ${what}${number === 1 ? "" : "s"}`;
}

function grouped(number) {
  return number.toLocaleString("en");
}

// ---- A run, and the same as text

function acting(run) {
  const act = new Set([...run.steps, ...run.cycle].map((step) => step.task));
  return run.tasks.filter((task) => act.has(task));
}

// Tasks that wait are named "TASK waits in OPERATION".
function waits(run) {
  return run.waiting.map((line) => {
    const at = line.indexOf(" waits in ");
    return { task: line.slice(0, at), operation: line.slice(at + 10) };
  });
}

function idle(run) {
  const named = new Set([...acting(run), ...waits(run).map((one) => one.task)]);
  const rest = run.tasks.filter((task) => !named.has(task));
  return rest.length ? `${rest.join(", ")} take${rest.length === 1 ? "s" : ""} no step.` : "";
}

function asText(run) {
  const lines = [...run.steps, ...run.cycle].map((step, i, all) => {
    const call = step.operation + (step.result === null ? "" : ` -> ${step.result}`);
    const notes = step.changes.map((one) => `${one.variable} = ${one.now} (was ${one.was})`);
    if (step.preempts) notes.push(`[preempts ${all[i - 1].task}]`);
    if (step.breaks) notes.push(`[breaks it: ${step.breaks}]`);
    return [String(i + 1).padStart(3), step.task, call, notes.join("; ")];
  });
  const wide = (place) => Math.max(0, ...lines.map((line) => line[place].length));
  const [task, call] = [wide(1), wide(2)];
  const text = lines.map((line) =>
    `${line[0]}  ${line[1].padEnd(task)}  ${line[2].padEnd(call)}  ${line[3]}`.trimEnd());
  if (run.cycle.length) text.splice(run.steps.length, 0, "and so on for ever:");
  return [...text, ...run.waiting, idle(run)].filter(Boolean).join("\n");
}

// ---- The chart

const LINE = 16; // height of a line of text
const BASE = 12; // of its base line
const PAD = 5; // inside a box, above and below
const SIDE = 8; // inside a box, left and right
const GAPS = { first: 8, same: 7, other: 18, preempted: 30 }; // above a step

function drawChart(place, run) {
  const chart = measure(place.clientWidth || 800, run);
  const label = `${run.verdict}. The same as text is below.`;
  const body = drawn("svg", { role: "img", "aria-label": label });
  const layers = { back: drawn("g"), lines: drawn("g"), rows: drawn("g") };
  body.append(layers.back, layers.lines, layers.rows);
  let y = drawSteps(layers, chart, run.steps, 0, 4);
  if (run.cycle.length) y = drawCycle(layers, chart, run, y);
  for (const wait of waits(run)) y = drawWait(layers, chart, wait, y);
  if (!run.steps.some((step) => step.breaks)) y = drawWhy(layers, chart, run.why, y);
  const bottom = y + 4;
  for (const lane of chart.lanes.values()) {
    layers.back.append(upright("life", lane.x, 0, bottom, lane));
  }
  layers.back.append(upright("gutter", chart.gutter - 10, 0, bottom));
  body.setAttribute("viewBox", `0 0 ${chart.width} ${bottom + 6}`);
  const rest = idle(run);
  place.replaceChildren(
    element("div", { class: "heads" }, drawHeads(chart)), body,
    ...(rest ? [element("p", { class: "rest" }, rest)] : []));
}

// A task's colour, by number: the page forbids inline styles.
function hue(lane) {
  return lane ? { "data-hue": lane.hue } : {};
}

function upright(name, x, y1, y2, lane) {
  return drawn("line", { class: name, x1: x, x2: x, y1, y2, ...hue(lane) });
}

function rectangle(name, x, y, width, height, rx = 4) {
  return drawn("rect", { class: name, x, y, width, height, rx });
}

// Where everything stands from left to right: numbers, lifelines, changes.
function measure(available, run) {
  const width = Math.max(560, available);
  const letter = letterWidth();
  const shown = new Set([...acting(run), ...waits(run).map((one) => one.task)]);
  const tasks = run.tasks.filter((task) => shown.has(task));
  const left = run.cycle.length ? 52 : 32;
  const gutterWidth = Math.min(360, Math.max(200, width * 0.34));
  const gutter = width - gutterWidth;
  const right = gutter - 22;
  const lane = (right - left) / Math.max(1, tasks.length);
  const lanes = new Map(tasks.map((task, i) => [task, {
    x: Math.round(left + lane * (i + 0.5)),
    name: wrapped(task, Math.floor((lane - 14) / letter)),
    width: lane,
    hue: run.tasks.indexOf(task) % 7,
  }]));
  return { width, letter, left, right, gutter, gutterWidth, lanes };
}

function letterWidth() {
  const probe = document.createElement("canvas").getContext("2d");
  const mono = getComputedStyle(document.documentElement).getPropertyValue("--mono");
  probe.font = `12px ${mono}`;
  return probe.measureText("0".repeat(100)).width / 100;
}

function longest(lines) {
  return Math.max(0, ...lines.map((line) => line.length));
}

// The names of the tasks are a drawing of their own: they stay while the chart scrolls.
function drawHeads(chart) {
  const lanes = [...chart.lanes.values()];
  const height = Math.max(1, ...lanes.map((lane) => lane.name.length)) * 14 + 12;
  const svg = drawn("svg", { viewBox: `0 0 ${chart.width} ${height + 8}`, "aria-hidden": "true" });
  for (const lane of lanes) {
    const width = Math.min(lane.width - 6, longest(lane.name) * chart.letter + 18);
    const group = drawn("g", hue(lane), rectangle("head", lane.x - width / 2, 1, width, height, 5));
    lane.name.forEach((line, i) =>
      group.append(drawn("text", { class: "task", x: lane.x, y: 19 + i * 14 }, line)));
    group.append(upright("life", lane.x, height + 1, height + 8, lane));
    svg.append(group);
  }
  const caption = { class: "caption", x: chart.gutter, y: height - 6 };
  svg.append(drawn("text", caption, "what it changes"));
  return svg;
}

function drawSteps(layers, chart, steps, first, top) {
  let y = top;
  let before = null;
  steps.forEach((step, i) => {
    const here = drawStep(chart, step, first + i + 1);
    const goesOn = before && before.step.task === step.task;
    here.place(y + GAPS[gapOf(before, goesOn, step)]);
    layers.rows.append(here.group);
    if (before) {
      layers.lines.append(goesOn ? drawActive(before, here) : drawSwitch(before, here));
    }
    y = here.bottom;
    before = here;
  });
  return y;
}

function gapOf(before, goesOn, step) {
  if (!before) return "first";
  if (goesOn) return "same";
  return step.preempts ? "preempted" : "other";
}

// A step: a box on its task's lifeline, pushed inward where it would stick out.
function drawStep(chart, step, number) {
  const lane = chart.lanes.get(step.task);
  const most = Math.floor((chart.right - chart.left - 2 * SIDE) / chart.letter);
  const result = step.result === null ? "" : `→ ${step.result}`;
  const call = wrapped(`${step.operation} ${result}`.trimEnd(), most);
  const reason = step.breaks ? wrapped(step.breaks, most, 0, PROSE) : [];
  const { x, width } = boxAt(chart, lane, [...call, ...reason]);
  const height = call.length * LINE + 2 * PAD;
  const full = height + (reason.length ? reason.length * LINE + 8 : 0);
  const changes = step.changes.flatMap((change) => changeLines(chart, change));
  const total = Math.max(full, changes.length * LINE + 4);
  const inside = drawn("g", hue(lane),
    reason.length ? rectangle("why", x, 0, width, full) : null,
    rectangle("box", x, 0, width, height), rectangle("tint", x, 0, width, height),
    callText(call, result, x + SIDE, PAD + BASE),
    reason.length ? textLines("reason", reason, x + SIDE, height + BASE + 3) : null);
  const group = drawn("g", { class: step.breaks ? "step breaks" : "step", "data-step": number },
    rectangle("strip", 0, -3, chart.width, total + 6),
    drawn("text", { class: "number", x: chart.left - 8, y: PAD + BASE }, String(number)),
    changes.length ? leader(x + width + 4, chart.gutter - 4) : null,
    inside, ...drawChanges(chart, changes));
  return {
    step, group, lane,
    place(y) {
      group.setAttribute("transform", `translate(0 ${y})`);
      Object.assign(this, { top: y, boxBottom: y + full, bottom: y + total });
    },
  };
}

function boxAt(chart, lane, lines) {
  const width = longest(lines) * chart.letter + 2 * SIDE;
  return { width, x: Math.max(chart.left, Math.min(lane.x - width / 2, chart.right - width)) };
}

function leader(from, to) {
  return drawn("line", { class: "leader", x1: from, x2: to, y1: 13, y2: 13 });
}

// The result, at the end of the last line, stands out.
function callText(lines, result, x, y) {
  const text = drawn("text", { class: "call" });
  lines.forEach((line, i) => {
    const isLast = result && i === lines.length - 1 && line.endsWith(result);
    const call = isLast ? line.slice(0, -result.length) : line;
    text.append(drawn("tspan", { x, y: y + i * LINE }, call));
    if (isLast) text.append(drawn("tspan", { class: "result" }, result));
  });
  return text;
}

function textLines(name, lines, x, y) {
  return drawn("text", { class: name }, ...lines.map((line, i) =>
    drawn("tspan", { x, y: y + i * LINE }, line)));
}

function drawChanges(chart, lines) {
  return lines.map((line, i) => drawn("text", {
    class: "change", x: chart.gutter + line.indent * chart.letter, y: PAD + BASE + i * LINE,
  }, ...line.parts));
}

// "var = now (was before)", on as many lines as it takes.
function changeLines(chart, change) {
  const most = Math.floor(chart.gutterWidth / chart.letter) - 1;
  const whole = `${change.variable} = ${change.now} (was ${change.was})`;
  const name = `${change.variable} = `.length;
  const kinds = [[name, null], [name + change.now.length, "now"], [whole.length, "was"]];
  let start = 0;
  return wrapped(whole, most, 2).map((line, i) => {
    const end = start + line.length;
    const parts = [];
    let from = start;
    for (const [until, kind] of kinds) {
      const to = Math.min(end, until);
      if (to > from) parts.push(drawn("tspan", { class: kind }, whole.slice(from, to)));
      from = Math.max(from, to);
    }
    start = end;
    return { parts, indent: i ? 2 : 0 };
  });
}

// Text in lines, broken at the best kind of place that there is; nothing is lost. Calls and values:
// after a comma, a call's bracket, a bar, or before "(was" and a result.
const PROSE = [/ /g];
const CALL = [/, |\w\(|\|| (?=\(was |→ )/g, /(?<!→) /g];

function wrapped(text, most, indent = 0, kinds = CALL) {
  const lines = [];
  let rest = text;
  let room = Math.max(8, most);
  while (rest.trimEnd().length > room) {
    const places = kinds.map((kind) => lastBreak(rest, room, kind));
    const at = places.find((place) => place > 0) || room;
    lines.push(rest.slice(0, at));
    rest = rest.slice(at);
    room = Math.max(8, most - indent);
  }
  lines.push(rest);
  return lines;
}

function lastBreak(text, room, kind) {
  let last = 0;
  for (const match of text.matchAll(kind)) {
    const end = match.index + match[0].length;
    if (text.slice(0, end).trimEnd().length <= room) last = end;
  }
  return last;
}

// The task goes on: its lifeline is thick.
function drawActive(before, here) {
  const height = here.top - before.boxBottom;
  const bar = rectangle("active", before.lane.x - 2, before.boxBottom, 4, height, 0);
  return filled(bar, hue(before.lane), []);
}

// Another task goes on: an arrow from lifeline to lifeline; dashed where the first one could have.
function drawSwitch(before, here) {
  const [from, to] = [before.lane.x, here.lane.x];
  const middle = here.top - 9;
  const way = `M${from} ${before.boxBottom} V${middle} H${to} V${here.top - 5}`;
  const group = drawn("g", { class: here.step.preempts ? "preempts" : "switches" },
    drawn("path", { class: "switch", d: way }),
    drawn("path", { class: "tip", d: `M${to} ${here.top} l-4 -7 h8 z` }));
  if (here.step.preempts) {
    const [x, anchor] = to > from ? [from + 6, "start"] : [from - 6, "end"];
    const label = { class: "label", x, y: middle - 4, "text-anchor": anchor };
    group.append(drawn("text", label, "interrupted"));
  }
  return group;
}

// What goes round for ever: shaded, and an arrow from its end back to its beginning.
function drawCycle(layers, chart, run, top) {
  const start = top + 14;
  const come = run.cycle.length === 1 ? "comes" : "come";
  const again = `and so on for ever: ${counted(run.cycle.length, "step")} that ${come} again`;
  const caption = { class: "for-ever", x: chart.left - 20, y: start + 17 };
  layers.rows.append(drawn("text", caption, again));
  const end = drawSteps(layers, chart, run.cycle, run.steps.length, start + 24) + 10;
  layers.back.prepend(rectangle("loop", 2, start, chart.width - 4, end - start, 8));
  const [from, to] = [end - 22, start + 46];
  const way = `M24 ${from} H18 Q10 ${from} 10 ${from - 8} V${to + 8} Q10 ${to} 18 ${to} H22`;
  layers.lines.append(
    drawn("path", { class: "round", d: way }),
    drawn("path", { class: "round-tip", d: `M28 ${to} l-7 -4 v8 z` }));
  return end;
}

// Who waits for good: a dashed box at the end of a lifeline.
function drawWait(layers, chart, { task, operation }, top) {
  const lane = chart.lanes.get(task);
  const most = Math.floor((chart.right - chart.left - 2 * SIDE) / chart.letter);
  const lines = wrapped(`waits in ${operation}`, most);
  const { x, width } = boxAt(chart, lane, lines);
  const height = lines.length * LINE + 2 * PAD;
  const place = { class: "waits", transform: `translate(0 ${top + 10})`, ...hue(lane) };
  layers.rows.append(drawn("g", place, rectangle("box", x, 0, width, height),
    textLines("call", lines, x + SIDE, PAD + BASE)));
  return top + 10 + height;
}

// What is wrong, where no single step is.
function drawWhy(layers, chart, why, top) {
  const x = chart.left - 20;
  const lines = wrapped(why, Math.floor((chart.width - x - 24) / chart.letter), 0, PROSE);
  const height = lines.length * LINE + 12;
  layers.rows.append(drawn("g", { class: "end", transform: `translate(0 ${top + 12})` },
    rectangle("why", x, 0, chart.width - x - 4, height),
    textLines("reason", lines, x + 10, 18)));
  return top + 12 + height;
}
