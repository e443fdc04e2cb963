"""metrics.html: the curves of a run as one page that needs neither network nor server.

Plumbing, hence written by hand and not exported from a notebook.
"""

import json
import math

LIMIT = 1500  # points that a curve keeps; more are averaged in groups

TEMPLATE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>__TITLE__</title>
<style>
body { margin: 0; font: 14px/1.5 system-ui, sans-serif; color: #1f2933; }
header { padding: 12px 20px; border-bottom: 1px solid #dde3e8; }
h1 { font-size: 17px; margin: 0 0 6px; }
label { margin-right: 18px; white-space: nowrap; }
main { display: flex; align-items: flex-start; }
nav { width: 230px; flex: none; padding: 10px 20px; box-sizing: border-box; }
nav label { display: block; margin: 0; overflow: hidden; text-overflow: ellipsis; }
nav h2 { font-size: 13px; margin: 12px 0 2px; color: #52606d; }
#charts { flex: 1; display: grid; gap: 14px; padding: 14px;
  grid-template-columns: repeat(auto-fill, minmax(360px, 1fr)); }
figure { margin: 0; border: 1px solid #dde3e8; border-radius: 6px; padding: 8px; }
figcaption { display: flex; justify-content: space-between; font-weight: 600; }
figcaption span { font-weight: 400; color: #52606d; }
svg { width: 100%; height: 190px; display: block; }
svg text { font-size: 11px; fill: #52606d; }
@media (max-width: 700px) { main { display: block; } nav { width: auto; } }
</style>
</head>
<body>
<header>
<h1>__TITLE__</h1>
<label>x axis <select id="axis"></select></label>
<label>smoothing <input id="smooth" type="range" min="0" max="0.99" step="0.01"
  value="0.6"> <output id="amount"></output></label>
<label><input id="log" type="checkbox"> logarithmic</label>
</header>
<main><nav id="names"></nav><div id="charts"></div></main>
<script type="application/json" id="data">__DATA__</script>
<script>
"use strict";
const tables = JSON.parse(document.getElementById("data").textContent);
const axes = ["step", "minutes", "updates"];
const first = ["return", "loss/reward", "loss/dyn", "loss/actor", "loss/critic",
  "actor/entropy", "return/scale", "value/mean"];
const byId = id => document.getElementById(id);
const make = (tag, parent, attributes = {}, text = "") => {
  const svg = ["svg", "path", "line", "text", "circle"].includes(tag);
  const node = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag)
    : document.createElement(tag);
  for (const [k, v] of Object.entries(attributes)) node.setAttribute(k, v);
  node.textContent = text;
  parent.append(node);
  return node;
};
const short = v => v === 0 ? "0" : Math.abs(v) >= 1e5 || Math.abs(v) < 1e-3
  ? v.toExponential(2) : String(+v.toPrecision(4));
const series = [];
for (const [table, columns] of Object.entries(tables))
  for (const name of Object.keys(columns))
    if (!axes.includes(name) && name !== "env") series.push({ table, name });
const chosen = new Set(first.filter(n => series.some(s => s.name === n)));
if (!chosen.size) series.slice(0, 6).forEach(s => chosen.add(s.name));

function smooth(values, weight) {
  let mean = 0, sum = 0;
  return values.map(v => {
    mean = weight * mean + (1 - weight) * v;
    sum = weight * sum + (1 - weight);
    return mean / sum;
  });
}

function points(item) {
  const columns = tables[item.table], log = byId("log").checked;
  const xs = columns[byId("axis").value] || columns.step, ys = columns[item.name];
  const kept = ys.map((y, i) => [xs[i], y])
    .filter(([x, y]) => x !== null && y !== null && !(log && y <= 0));
  return { x: kept.map(p => p[0]), y: kept.map(p => p[1]) };
}

function draw(item) {
  const { x, y } = points(item), log = byId("log").checked;
  const figure = make("figure", byId("charts"));
  const caption = make("figcaption", figure, {}, item.name);
  const shown = make("span", caption);
  const svg = make("svg", figure, { viewBox: "0 0 400 190", role: "img",
    "aria-label": item.name + " over " + byId("axis").value });
  if (!x.length) return make("text", svg, { x: 150, y: 95 }, "nothing to show");
  const soft = smooth(y, +byId("smooth").value), f = log ? Math.log10 : v => v;
  const [x0, x1] = [Math.min(...x), Math.max(...x)];
  let [y0, y1] = [Math.min(...y.map(f)), Math.max(...y.map(f))];
  if (y0 === y1) { y0 -= 0.5; y1 += 0.5; }
  const px = v => 52 + 336 * (x1 > x0 ? (v - x0) / (x1 - x0) : 0.5);
  const py = v => 160 - 150 * (f(v) - y0) / (y1 - y0);
  for (let k = 0; k <= 4; k++) {
    const value = y0 + (y1 - y0) * k / 4, at = 160 - 150 * k / 4;
    make("line", svg, { x1: 52, x2: 388, y1: at, y2: at, stroke: "#e4e7eb" });
    make("text", svg, { x: 48, y: at + 4, "text-anchor": "end" },
      short(log ? 10 ** value : value));
  }
  for (const [v, anchor] of [[x0, "start"], [x1, "end"]])
    make("text", svg, { x: px(v), y: 178, "text-anchor": anchor }, short(v));
  make("text", svg, { x: 220, y: 178, "text-anchor": "middle" }, byId("axis").value);
  const path = ys => "M" + ys.map((v, i) => px(x[i]).toFixed(1) + " " +
    py(v).toFixed(1)).join("L");
  const line = { fill: "none", "vector-effect": "non-scaling-stroke" };
  make("path", svg, { ...line, d: path(y), stroke: "#b7cde0", "stroke-width": 1 });
  make("path", svg, { ...line, d: path(soft), stroke: "#0072b2", "stroke-width": 2 });
  const dot = make("circle", svg, { r: 4, fill: "#d55e00", visibility: "hidden" });
  const tell = i => {
    shown.textContent = byId("axis").value + " " + short(x[i]) + ": " + short(y[i]) +
      " (smooth " + short(soft[i]) + ")";
  };
  tell(x.length - 1);
  svg.addEventListener("pointermove", event => {
    const box = svg.getScreenCTM();
    const at = (event.clientX - box.e) / box.a;
    let best = 0;
    x.forEach((v, i) => {
      if (Math.abs(px(v) - at) < Math.abs(px(x[best]) - at)) best = i;
    });
    dot.setAttribute("cx", px(x[best]));
    dot.setAttribute("cy", py(soft[best]));
    dot.setAttribute("visibility", "visible");
    tell(best);
  });
  svg.addEventListener("pointerleave", () => {
    dot.setAttribute("visibility", "hidden");
    tell(x.length - 1);
  });
}

function redraw() {
  byId("amount").textContent = byId("smooth").value;
  byId("charts").textContent = "";
  series.filter(s => chosen.has(s.name)).forEach(draw);
}

for (const name of axes)
  if (Object.values(tables).some(t => t[name]))
    make("option", byId("axis"), { value: name }, name);
for (const table of Object.keys(tables)) {
  make("h2", byId("names"), {}, table);
  for (const { name } of series.filter(s => s.table === table)) {
    const label = make("label", byId("names"), { title: name });
    const box = make("input", label, { type: "checkbox" });
    label.append(" " + name);
    box.checked = chosen.has(name);
    box.addEventListener("change", () => {
      box.checked ? chosen.add(name) : chosen.delete(name);
      redraw();
    });
  }
}
for (const id of ["axis", "smooth", "log"]) byId(id).addEventListener("input", redraw);
redraw();
</script>
</body>
</html>
"""


def number(text):
    """A cell of a CSV file as a finite number, or None."""
    try:
        value = float(text)
    except (TypeError, ValueError):
        return None
    return value if math.isfinite(value) else None


def columns(rows, fields):
    """Rows of a table as {name: numbers}, long ones averaged in equal groups."""
    size = max(1, -(-len(rows) // LIMIT))
    groups = [rows[i : i + size] for i in range(0, len(rows), size)]
    found = {}
    for name in fields:
        parts = [[number(row.get(name)) for row in group] for group in groups]
        parts = [[v for v in part if v is not None] for part in parts]
        found[name] = [round_(sum(p) / len(p)) if p else None for p in parts]
    return found


def round_(value):
    """Six significant digits: what the CSV file has, without the noise of a mean."""
    return float(f"{value:.6g}")


def render(title, tables):
    """The page: title; tables, {name: (rows, fields)} with rows of {field: value}."""
    data = {name: columns(*table) for name, table in tables.items()}
    text = json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")
    title = title.replace("&", "&amp;").replace("<", "&lt;")
    return TEMPLATE.replace("__TITLE__", title).replace("__DATA__", text)
