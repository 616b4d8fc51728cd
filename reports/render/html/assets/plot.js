// Score against cost with 95% intervals, as SVG in the width there is.
const MARKERS = {
  dense: "M0-7L7 0L0 7L-7 0Z",
  fastflux: "M-5 0A5 5 0 1 0 5 0A5 5 0 1 0-5 0Z",
  l1: "M-4.6-4.6H4.6V4.6H-4.6Z",
  plus: "M0-6.4L6 4.6H-6Z",
  "l1-equal": "M0-6L5.6 4.4H-5.6Z",
  width: "M0 6.4L6-4.6H-6Z",
  "width-equal": "M0 6L5.6-4.4H-5.6Z",
  other: "M-1.5-5.5h3v4h4v3h-4v4h-3v-4h-4v-3h4Z",
};
const plot = { data: null, cost: 0, score: 0, hidden: new Set(), current: 0 };

function startPlot() {
  const host = document.getElementById("plot");
  plot.data = dataOf("plot-data");
  const { costs, scores, series } = plot.data;
  if (!costs.length || !scores.length) {
    host.append(make("p", { class: "empty" }, "No record holds both a score and a ratio of latency or FLOPs."));
    return;
  }
  const canvas = make("div", { class: "plot-area" });
  const redraw = () => drawPlot(canvas);
  const controls = make("div", { class: "controls" },
    choice("Score", scores.map((axis) => axis.name), 0, (index) => { plot.score = index; redraw(); }),
    choice("Cost", costs.map((axis) => axis.name), 0, (index) => { plot.cost = index; redraw(); }));
  const legend = make("div", { class: "legend", role: "group", "aria-label": "Series" });
  for (const one of series) {
    const button = make("button", { type: "button", "aria-pressed": "true", class: `series-${one.name}` },
      draw("svg", { viewBox: "-9 -9 18 18", width: 18, height: 18, "aria-hidden": "true" },
        draw("path", { d: MARKERS[one.name], class: "marker" })), one.title);
    button.addEventListener("click", () => {
      if (!plot.hidden.delete(one.name)) plot.hidden.add(one.name);
      button.setAttribute("aria-pressed", String(!plot.hidden.has(one.name)));
      redraw();
    });
    legend.append(button);
  }
  const note = "Left is faster or cheaper, up is better. Thin lines through a point are 95% intervals. Ringed points on "
    + "the dashed line are the Pareto front: no variant measured costs less and scores higher. A click on a series "
    + "hides it.";
  host.append(controls, legend, canvas, make("p", { class: "notes" }, note));
  let width = 0;
  new ResizeObserver(() => {
    if (canvas.clientWidth !== width) { width = canvas.clientWidth; redraw(); }
  }).observe(canvas);
}

function drawPlot(host) {
  hideTip();
  const cost = plot.data.costs[plot.cost], score = plot.data.scores[plot.score];
  const front = plot.data.fronts[`${cost.key} ${score.key}`];
  const all = plot.data.points.map((point, index) => ({ ...point, index, x: point.values[cost.key], y: point.values[score.key] }));
  const points = all.filter((point) => point.x && point.y && !plot.hidden.has(point.series));
  const width = Math.max(280, host.clientWidth), height = Math.round(Math.max(300, Math.min(460, width * 0.58)));
  const box = { left: 52, right: width - 14, top: 14, bottom: height - 46 };
  const xAxis = scaleOf(points.map((point) => point.x), box.left, box.right, width / 110);
  const yAxis = scaleOf(points.map((point) => point.y), box.bottom, box.top, height / 60);
  const svg = draw("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "group",
    "aria-label": `${score.name} against ${cost.name}` });
  drawAxes(svg, box, xAxis, yAxis, cost, score);
  const place = (point) => [xAxis.at(point.x[0]), yAxis.at(point.y[0])];
  for (const one of plot.data.series.filter((entry) => entry.joined)) {
    const line = points.filter((point) => point.series === one.name).sort((a, b) => a.x[0] - b.x[0]).map(place);
    svg.append(draw("polyline", { points: line.join(" "), class: `joined series-${one.name}` }));
  }
  const best = front.map((index) => all[index]).filter((point) => points.includes(point));
  svg.append(draw("polyline", { points: best.map(place).join(" "), class: "front" }));
  const marks = [...points].sort((a, b) => a.x[0] - b.x[0]).map((point) =>
    mark(point, place(point), xAxis, yAxis, cost, score, best.includes(point)));
  svg.append(...marks);
  labelPoints(svg, points, place, box);
  walk(marks);
  host.replaceChildren(svg);
}

// Linear, with room on both sides and about `count` round ticks.
function scaleOf(values, from, to, count) {
  const ends = values.flatMap((value) => value.filter((number) => number !== null));
  let low = Math.min(...ends), high = Math.max(...ends);
  if (!ends.length) [low, high] = [0, 1];
  if (low === high) [low, high] = [low - Math.abs(low || 1) / 20, high + Math.abs(high || 1) / 20];
  const room = (high - low) * 0.06;
  low -= room;
  high += room;
  const raw = (high - low) / Math.max(2, count), power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((each) => each >= raw);
  const digits = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
  const ticks = [];
  for (let index = Math.ceil(low / step); index * step <= high; index += 1) ticks.push(index * step);
  return { at: (value) => from + ((value - low) / (high - low)) * (to - from), ticks, digits };
}

function drawAxes(svg, box, xAxis, yAxis, cost, score) {
  for (const tick of yAxis.ticks) {
    const y = yAxis.at(tick);
    svg.append(draw("line", { x1: box.left, x2: box.right, y1: y, y2: y, class: "grid" }),
      draw("text", { x: box.left - 8, y: y + 4, class: "tick end" }, minus(tick.toFixed(yAxis.digits))));
  }
  for (const tick of xAxis.ticks) {
    const x = xAxis.at(tick);
    svg.append(draw("line", { x1: x, x2: x, y1: box.bottom, y2: box.bottom + 5, class: "axis" }),
      draw("text", { x, y: box.bottom + 19, class: "tick middle" }, minus(tick.toFixed(xAxis.digits))));
  }
  svg.append(draw("line", { x1: box.left, x2: box.right, y1: box.bottom, y2: box.bottom, class: "axis" }),
    draw("text", { x: (box.left + box.right) / 2, y: box.bottom + 39, class: "name middle" }, `${cost.name} \u2193`),
    draw("text", { transform: `translate(13 ${(box.top + box.bottom) / 2}) rotate(-90)`, class: "name middle" }, `${score.name} \u2191`));
}

function mark(point, [x, y], xAxis, yAxis, cost, score, best) {
  const text = `${point.label}: ${cost.name} ${shown(point.x, cost.digits)}, ${score.name} ${shown(point.y, score.digits)}`;
  const group = draw("g", { class: `point series-${point.series}`, role: "img", "aria-label": best ? `${text}, on the Pareto front` : text });
  if (point.y[1] !== null) group.append(draw("line", { x1: x, x2: x, y1: yAxis.at(point.y[1]), y2: yAxis.at(point.y[2]), class: "whisker" }));
  if (point.x[1] !== null) group.append(draw("line", { x1: xAxis.at(point.x[1]), x2: xAxis.at(point.x[2]), y1: y, y2: y, class: "whisker" }));
  group.append(draw("circle", { cx: x, cy: y, r: best ? 10 : 8, class: best ? "ring" : "halo" }),
    draw("path", { d: MARKERS[point.series], transform: `translate(${x} ${y})`, class: "marker" }));
  const facts = () => recordTip(best ? `${point.label}, on the Pareto front` : point.label, point.record, [score.key, cost.key], [], "");
  addTip(group, facts);
  return group;
}

function shown([value, low, high], digits) {
  const text = value.toFixed(digits);
  return minus(low === null ? text : `${text} [${low.toFixed(digits)}, ${high.toFixed(digits)}]`);
}

function minus(text) {
  return text.replace(/-(?=\d)/g, "\u2212");
}

// The last part of a name ("10%") beside the points of joined series; upper series left of theirs, lower ones right.
// A label that would lie on another one is left out: the tip has the whole name.
function labelPoints(svg, points, place, box) {
  const taken = [];
  for (const point of points) {
    const one = plot.data.series.find((entry) => entry.name === point.series);
    if (point.series !== "dense" && (!one.joined || point.series.endsWith("-equal"))) continue;
    const [x, y] = place(point), above = point.series !== "l1";
    const text = point.series === "dense" ? "dense" : point.label.split("-").pop();
    const end = above || x > box.right - 60, edge = end ? x - 9 : x + 9, length = 7 * text.length;
    const spot = { left: end ? edge - length : edge, right: end ? edge : edge + length, y: y + (above ? -9 : 17) };
    if (taken.some((other) => spot.left < other.right && other.left < spot.right && Math.abs(spot.y - other.y) < 12)) continue;
    taken.push(spot);
    svg.append(draw("text", { x: edge, y: spot.y, class: `label ${end ? "end" : "start"} series-${point.series}` }, text));
  }
}

// One stop for Tab; the arrow keys go through the points from left to right.
function walk(marks) {
  marks.forEach((each, index) => {
    each.setAttribute("tabindex", index === 0 ? 0 : -1);
    each.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
      if (!step) return;
      event.preventDefault();
      event.stopPropagation();
      const next = marks[index + step];
      if (!next) return;
      each.setAttribute("tabindex", -1);
      next.setAttribute("tabindex", 0);
      next.focus();
    });
  });
}
