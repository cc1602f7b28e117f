"use strict";

// Text goes onto the page as text alone: nothing here parses HTML.

const report = JSON.parse(document.getElementById("data").textContent);
const main = document.getElementById("main");
const LANES_SHOWN = 16; // more ranks are folded

// ---- elements

function make(space, name, attributes, children) {
  const element = space ? document.createElementNS(space, name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes ?? {})) {
    element.setAttribute(key, value);
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}
const html = (name, attributes, ...children) => make(null, name, attributes, children);
const svg = (name, attributes, ...children) => make("http://www.w3.org/2000/svg", name, attributes, children);
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

// ---- numbers

const whole = new Intl.NumberFormat("en-US", { maximumFractionDigits: 0 });

function number(value) {
  if (value === null) {
    return "none";
  }
  if (Number.isInteger(value) || Math.abs(value) >= 10000) {
    return whole.format(value);
  }
  return Math.abs(value) < 1e-3 ? value.toExponential(2) : String(Number(value.toPrecision(4)));
}

function bytes(value) {
  const units = ["bytes", "KiB", "MiB", "GiB", "TiB"];
  if (value === null) {
    return "none";
  }
  let unit = 0;
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024;
    unit++;
  }
  return `${unit === 0 ? value : value.toFixed(2)} ${units[unit]}`;
}

const compact = new Intl.NumberFormat("en-US", { notation: "compact" });
const tickText = (value, format) => (format === bytes ? roundBytes(value) : Math.abs(value) >= 10000 ? compact.format(value) : format(value));
const roundBytes = (value) => bytes(value).replace(/\.00 /, " ");
const milliseconds = (value) => (value === null ? "none" : `${number(value)} ms`);
const levers = (value) => (value === null ? "none planned" : report.levers[value] ?? "unknown");

function duration(seconds) {
  const minutes = Math.floor(seconds / 60), hours = Math.floor(minutes / 60);
  if (minutes === 0) {
    return `${number(seconds)} s`;
  }
  return hours === 0 ? `${minutes} min ${Math.round(seconds % 60)} s` : `${hours} h ${minutes % 60} min`;
}

// ---- series: {min, max, mean or sum} as arrays over columns, or {value}, where a column is one step

const at = (values, i) => (Array.isArray(values) ? values[i] : values) ?? null;

function reader(series) {
  const value = series.value ?? series.sum;
  if (value !== undefined) {
    const read = (i) => at(value, i);
    return { min: read, max: read, mean: read, exact: true };
  }
  const min = (i) => at(series.min, i), max = (i) => at(series.max, i);
  return { min, max, mean: series.mean === undefined ? max : (i) => at(series.mean, i), exact: false };
}

function extent(readers, count, from) {
  let low = Infinity, high = -Infinity;
  for (const read of readers) {
    for (let i = 0; i < count; i++) {
      if (read.min(i) !== null) {
        low = Math.min(low, read.min(i));
        high = Math.max(high, read.max(i));
      }
    }
  }
  low = from ?? low;
  return low > high || !Number.isFinite(low) ? [0, 1] : low === high ? [low - (low === 0 ? 0 : Math.abs(low) / 10), high + Math.abs(high || 1) / 10] : [low, high];
}

const total = (read, count, combine, first) => {
  let result = first;
  for (let i = 0; i < count; i++) {
    if (read(i) !== null) {
      result = result === null ? read(i) : combine(result, read(i));
    }
  }
  return result;
};
const lowest = (read, count) => total(read, count, Math.min, null);
const highest = (read, count) => total(read, count, Math.max, null);
const sum = (read, count) => total(read, count, (a, b) => a + b, 0);

const lastStep = report.run.newest === null ? 0 : report.run.newest.step;

function stepsOf(columns, i) {
  const first = i * columns.stride, last = Math.min(first + columns.stride - 1, lastStep);
  return first >= last ? `step ${whole.format(first)}` : `steps ${whole.format(first)} to ${whole.format(last)}`;
}

function range(read, i, format) {
  const low = read.min(i), high = read.max(i);
  return low === high ? format(low) : `${format(low)} to ${format(high)}`;
}

// ---- tables

// A cell: text, or [value, shown].
function cell(content, tag = "td", attributes = {}) {
  if (!Array.isArray(content)) {
    return html(tag, typeof content === "string" && tag === "td" ? { class: "text", ...attributes } : attributes, String(content));
  }
  return html(tag, attributes, content[0] === null ? "" : html("data", { value: content[0] }, content[1]));
}

function table(id, caption, heads, rows) {
  const head = html("tr", {}, ...heads.map((name) => html("th", { scope: "col" }, name)));
  const body = rows.map((row) => html("tr", {}, cell(row[0], "th", { scope: "row" }), ...row.slice(1).map((content) => cell(content))));
  return html("table", { id }, html("caption", {}, caption), html("thead", {}, head), html("tbody", {}, ...body));
}

function behind(summary, ...content) {
  const scroll = html("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": summary }, ...content);
  return html("details", {}, html("summary", {}, summary), scroll);
}

const figure = (value, format) => [value, value === null ? "" : format(value)];

// ---- charts: what can be focused, with a cursor that arrow keys and the pointer move

const LEFT = 62, RIGHT = 14;
const redraws = [];

function whenSized(element, draw) {
  let drawn = 0;
  const redraw = () => {
    drawn = element.clientWidth;
    if (drawn > 0) {
      draw(drawn);
    }
  };
  redraws.push(redraw);
  new ResizeObserver(() => element.clientWidth !== drawn && requestAnimationFrame(redraw)).observe(element);
}
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => redraws.forEach((redraw) => redraw()));

// `move(dx, dy)` by keys, `to(x, y)` by the pointer, in pixels of the element.
function steer(element, move, to) {
  const keys = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1], PageUp: [-10, 0], PageDown: [10, 0],
                 Home: [-Infinity, 0], End: [Infinity, 0] };
  element.addEventListener("keydown", (event) => {
    if (keys[event.key] && !event.ctrlKey && !event.metaKey && !event.altKey) {
      move(...keys[event.key]);
      event.preventDefault();
    }
  });
  element.addEventListener("focus", () => element.classList.add("steered"));
  const point = (event) => {
    element.classList.add("steered");
    const box = element.getBoundingClientRect();
    to(event.clientX - box.left, event.clientY - box.top, event.type === "pointerdown");
  };
  element.addEventListener("pointermove", point);
  element.addEventListener("pointerdown", point);
}

const clamp = (value, low, high) => Math.max(low, Math.min(high, value));

function ticks(low, high, count, binary) {
  const rough = (high - low) / count, base = binary ? 2 ** Math.floor(Math.log2(rough)) : 10 ** Math.floor(Math.log10(rough));
  const step = base * (binary ? (rough / base > 1.5 ? 2 : 1) : [1, 2, 5, 10].find((factor) => factor * base >= rough * 0.999));
  const found = [];
  for (let tick = Math.ceil(low / step) * step; tick <= high + step * 1e-9; tick += step) {
    found.push(Math.abs(tick) < step * 1e-9 ? 0 : tick);
  }
  return found;
}

function scale(from, to) {
  return (value) => to[0] + ((value - from[0]) / (from[1] - from[0] || 1)) * (to[1] - to[0]);
}

// Lines break where there is no value.
function path(count, x, y) {
  let d = "", open = false;
  for (let i = 0; i < count; i++) {
    const height = y(i);
    d += height === null ? "" : `${open ? "L" : "M"}${x(i).toFixed(1)} ${height.toFixed(1)}`;
    open = height !== null;
  }
  return d;
}

// Levels that stay until the next step.
function stairs(count, x, y) {
  let d = "", open = false;
  for (let i = 0; i < count; i++) {
    const height = y(i);
    d += height === null ? "" : `${open ? "L" : "M"}${x(i).toFixed(1)} ${height.toFixed(1)}H${x(i + 1).toFixed(1)}`;
    open = height !== null;
  }
  return d;
}

function band(count, x, low, high) {
  let d = "";
  for (let i = 0; i < count; i++) {
    if (low(i) !== null) {
      d += `M${x(i).toFixed(1)} ${high(i).toFixed(1)}H${x(i + 1).toFixed(1)}V${low(i).toFixed(1)}H${x(i).toFixed(1)}Z`;
    }
  }
  return d;
}

function legend(entries) {
  const key = (entry) => {
    const drawn = { line: () => svg("line", { x1: 0, y1: 6, x2: 24, y2: 6, class: `line ${entry.style}` }),
                    fill: () => svg("rect", { x: 2, y: 1, width: 20, height: 10, class: entry.style }),
                    dot: () => svg("circle", { cx: 12, cy: 6, r: 3.5, class: entry.style }),
                    up: () => svg("path", { d: "M12 1L17 11H7Z", class: entry.style }),
                    diamond: () => svg("path", { d: "M12 1L17 6L12 11L7 6Z", class: entry.style }) };
    return html("span", {}, svg("svg", { width: 24, height: 12, "aria-hidden": "true" }, drawn[entry.as ?? "line"]()), entry.name);
  };
  return html("div", { class: "legend" }, ...entries.map(key));
}

function axes(width, height, top, xs, ys, format) {
  const group = svg("g", {});
  for (const tick of ticks(ys.low, ys.high, Math.max(2, Math.floor((height - top) / 45)), format === bytes)) {
    group.append(svg("line", { x1: LEFT, x2: width - RIGHT, y1: ys.at(tick), y2: ys.at(tick), class: "grid-line" }),
                 svg("text", { x: LEFT - 6, y: ys.at(tick) + 4, "text-anchor": "end" }, tickText(tick, format)));
  }
  for (const tick of ticks(xs.low, xs.high, Math.max(2, Math.floor(width / 130)))) {
    if (Number.isInteger(tick)) {
      group.append(svg("text", { x: xs.at(tick), y: height + 16, "text-anchor": "middle" }, whole.format(tick)));
    }
  }
  return group;
}

const resumes = report.run.events.filter((event) => event.kind === "resume" && event.step > 0);

// options: id, title, columns, series [{name, style, read, band}], points {columns, read, name}, format, from, height
function lineChart(options) {
  const { columns, series, format } = options, height = options.height ?? 200, top = 10;
  const plot = svg("svg", { class: "plot", height: height + 22, tabindex: "0", role: "application", "aria-roledescription": "chart",
                            "aria-label": `${options.title}. Arrow keys move along the steps; a table follows.` });
  const readout = html("div", { class: "readout", "aria-live": "polite" });
  const entries = [...series.map((one) => ({ name: one.name, style: one.style })),
                   ...(options.points ? [{ name: options.points.name, style: "dot-second", as: "dot" }] : [])];
  let cursor = columns.count - 1, place = null;

  const describe = () => {
    const parts = series.map((one) => `${one.name} ${range(one.read, cursor, format)}` + (one.read.exact ? "" : `, mean ${format(one.read.mean(cursor))}`));
    return columns.count === 0 ? "no steps" : `${stepsOf(columns, cursor)}: ${parts.join("; ")}`;
  };
  const show = () => {
    readout.textContent = describe();
    plot.querySelector(".cursor")?.setAttribute("transform", `translate(${place(cursor + 0.5)} 0)`);
  };
  whenSized(plot, (width) => {
    const readers = [...series.map((one) => one.read), ...(options.points ? [options.points.read] : [])];
    const counts = Math.max(columns.count, options.points?.columns.count ?? 0);
    const [low, high] = extent(readers, counts, options.from);
    const y = scale([low, high], [height, top]), steps = Math.max(1, columns.count * columns.stride);
    const atStep = scale([0, steps], [LEFT, width - RIGHT]);
    place = (i) => atStep(i * columns.stride);
    const value = (read) => (i) => (read(i) === null ? null : y(read(i)));
    plot.replaceChildren(axes(width, height, top, { low: 0, high: steps, at: atStep }, { low, high, at: y }, format));
    for (const one of series) {
      if (!one.read.exact) {
        plot.append(svg("path", { class: "fill-band", d: band(columns.count, place, value(one.read.min), value(one.read.max)) }));
      }
      plot.append(svg("path", { class: `line ${one.style}`, d: path(columns.count, (i) => place(i + 0.5), value(one.read.mean)) }));
    }
    for (const event of resumes) {
      plot.append(svg("line", { class: "resumed", x1: atStep(event.step), x2: atStep(event.step), y1: top, y2: height }));
    }
    if (options.points) {
      const { columns: where, read } = options.points;
      for (let i = 0; i < where.count; i++) {
        if (read.mean(i) !== null) {
          plot.append(svg("circle", { class: "dot-second", r: where.count > 120 ? 2 : 3.5, cx: atStep(Math.min(i * where.stride, steps)), cy: y(read.mean(i)) }));
        }
      }
    }
    plot.append(svg("line", { class: "cursor", x1: 0, x2: 0, y1: top, y2: height }));
    show();
  });
  const go = (i) => {
    cursor = clamp(i, 0, Math.max(0, columns.count - 1));
    show();
  };
  steer(plot, (dx) => go(cursor + dx), (x) => go(Math.floor(((x - LEFT) / Math.max(1, plot.clientWidth - LEFT - RIGHT)) * columns.count)));

  const heads = ["steps"], rows = [];
  for (const one of series) {
    heads.push(...(one.read.exact ? [one.name] : [`${one.name}, least`, `${one.name}, mean`, `${one.name}, greatest`]));
  }
  for (let i = 0; i < columns.count; i++) {
    const of = (one) => (one.read.exact ? [one.read.mean(i)] : [one.read.min(i), one.read.mean(i), one.read.max(i)]);
    rows.push([stepsOf(columns, i).replace(/^steps? /, ""), ...series.flatMap(of).map((value) => figure(value, format))]);
  }
  const tables = [table(`table-${options.id}`, options.title, heads, rows)];
  if (options.points) {
    const { columns: where, read, name } = options.points, points = [];
    for (let i = 0; i < where.count; i++) {
      if (read.mean(i) !== null) {
        points.push([number(i * where.stride), ...options.points.also.map((more) => figure(more.read.mean(i), more.format))]);
      }
    }
    tables.push(table(`table-${options.id}-points`, name, ["steps done", ...options.points.also.map((more) => more.name)], points));
  }
  return html("section", { class: "panel", "aria-labelledby": `title-${options.id}` },
              html("div", { class: "heading" }, html("h3", { id: `title-${options.id}` }, options.title), legend(entries)),
              plot, readout, behind("As a table", ...tables));
}

// ---- the run

function environment(key) {
  const line = report.run.environment.split("\n").find((text) => text.startsWith(`${key} `));
  return line === undefined ? null : line.slice(key.length + 1);
}

// status of an end -> what it says
const ENDS = { 0: ["✓ done", "good"], 1: ["✗ failed", "bad"], 2: ["✗ refused", "bad"], 3: ["✗ out of memory", "bad"],
               4: ["✗ diverged", "bad"], 75: ["■ stopped at a checkpoint", "wait"] };

function state() {
  const end = report.run.events.findLast((event) => event.kind === "end");
  return report.run.ended ? ENDS[end.status] ?? [`✗ ended with code ${end.status}`, "bad"] : ["… under way, or killed", "wait"];
}

function tile(name, value, note) {
  return html("dl", { class: "tile" }, html("dt", {}, name), html("dd", {}, value), note ? html("dd", { class: "note" }, note) : null);
}

const steps = report.steps, lanes = report.lanes;
const of = (name) => reader(steps.series[name]);
const lane = (field, rank) => reader(lanes.series[field][rank]);
const ranks = report.run.ranks;
const everyRank = Array.from({ length: ranks }, (_, rank) => rank);

function lowestHeadroom() {
  let found = { rank: 0, value: null };
  for (const rank of everyRank) {
    const value = lowest(lane("headroom_bytes", rank).min, lanes.count);
    if (value !== null && (found.value === null || value < found.value)) {
      found = { rank, value };
    }
  }
  return found;
}

const overRanks = (field) => everyRank.reduce((all, rank) => all + sum(lane(field, rank).max, lanes.count), 0);

function tiles() {
  const { newest, events } = report.run, shown = [];
  const evaluation = reader(report.evaluations.series.loss), accuracy = reader(report.evaluations.series.accuracy);
  const last = report.evaluations.count - 1;
  const seconds = events.reduce((all, event) => all + (event.seconds ?? 0), 0);
  shown.push(tile("Steps", number(report.run.steps), seconds > 0 ? duration(seconds) : environment("started") ?? ""));
  if (newest !== null) {
    const headroom = lowestHeadroom(), refused = overRanks("oom_retries"), moved = overRanks("handed_back");
    const byTokens = report.run.tokens !== report.run.samples, rate = of(byTokens ? "tokens_per_s" : "samples_per_s");
    shown.push(tile("Loss", number(newest.loss), `of step ${number(newest.step)}`));
    if (last >= 0) {
      shown.push(tile("Validation loss", number(evaluation.mean(last)), `accuracy ${(100 * accuracy.mean(last)).toFixed(2)} %`));
    }
    const middle = Array.from({ length: steps.count }, (_, i) => rate.mean(i)).filter((value) => value !== null).sort((a, b) => a - b);
    shown.push(tile(byTokens ? "Tokens/s" : "Samples/s", number(Math.round(middle[middle.length >> 1] ?? 0)), "median over the steps"));
    shown.push(tile("Lowest headroom", bytes(headroom.value), `on rank ${headroom.rank}`));
    shown.push(tile("Refused", number(refused), "allocations, done in pieces"));
    shown.push(tile("Handed back", number(moved), moved === 0 ? "no sample" : "samples that others did"));
  }
  return html("div", { class: "tiles" }, ...shown);
}

function header() {
  const [text, kind] = state();
  const parts = [`${number(ranks)} ${ranks === 1 ? "rank" : "ranks"}`, environment("host") && `host ${environment("host")}`,
                 environment("started") && `started ${environment("started")}`, environment("headroom") && `headroom ${environment("headroom").split(" ")[0]}`];
  document.title = `${report.run.name} – Headroom`;
  document.getElementById("top").append(
    html("div", { class: "title" }, html("h1", {}, report.run.name), html("span", { class: `state ${kind}` }, text)),
    html("div", { class: "about" }, parts.filter(Boolean).join(" · ")));
}

function findings() {
  const entry = (finding) => {
    const pairs = [["Figure", finding.figure], ["Threshold", finding.threshold], ["Where", finding.where], ["What to do", finding.fix]];
    return html("li", {}, html("h3", {}, finding.cause), html("dl", {}, ...pairs.flatMap(([name, text]) => [html("dt", {}, name), html("dd", {}, text)])));
  };
  return [html("h2", { id: "findings" }, "Findings"), html("ul", { class: "findings" }, ...report.findings.map(entry))];
}

function training() {
  const byTokens = report.run.tokens !== report.run.samples;
  const evaluations = report.evaluations, loss = reader(evaluations.series.loss);
  const points = evaluations.count === 0 ? null : {
    columns: evaluations, read: loss, name: "validation loss",
    also: [{ name: "loss", read: loss, format: number }, { name: "accuracy", read: reader(evaluations.series.accuracy), format: number }],
  };
  return [
    html("h2", {}, "Training"),
    html("div", { class: "grid" },
         lineChart({ id: "loss", title: "Loss in nats", columns: steps, points, format: number, series: [{ name: "training loss", style: "first", read: of("loss") }] }),
         lineChart({ id: "throughput", title: byTokens ? "Tokens per second" : "Samples per second", columns: steps, format: number, from: 0,
                     series: [{ name: byTokens ? "tokens/s" : "samples/s", style: "first", read: of(byTokens ? "tokens_per_s" : "samples_per_s") }] }),
         lineChart({ id: "time", title: "Time of a step", columns: steps, format: milliseconds, from: 0,
                     series: [{ name: "step", style: "first", read: of("step_ms") }, { name: "predicted", style: "second", read: of("predicted_ms") }] }),
         lineChart({ id: "waits", title: "Of it, waiting and coordinating", columns: steps, format: milliseconds, from: 0,
                     series: [{ name: "all-reduce", style: "first", read: of("comm_ms") }, { name: "data", style: "second", read: of("data_wait_ms") },
                              { name: "coordination", style: "third", read: of("coordination_ms") }] })),
  ];
}

// ---- ranks

const MEMORY_LINES = [{ name: "limit", style: "limit", field: "limit_bytes" }, { name: "allocated peak", style: "first", field: "allocated_peak_bytes" },
                      { name: "headroom", style: "third", field: "headroom_bytes" }];
const LANE_LEGEND = [...MEMORY_LINES, { name: "reserved peak", style: "fill-held", as: "fill" }, { name: "micro-batch", style: "second" },
                     { name: "levers", style: "lever", as: "fill" }, { name: "refused", style: "mark-bad", as: "up" }, { name: "handed back", style: "mark-moved", as: "diamond" }];
const RANK_FIELDS = [["headroom", "headroom_bytes", bytes], ["allocated peak", "allocated_peak_bytes", bytes], ["reserved peak", "reserved_peak_bytes", bytes],
                     ["limit", "limit_bytes", bytes], ["share", "share", number], ["micro-batch", "micro_batch", number], ["levers", "levers", levers],
                     ["refused", "oom_retries", number], ["handed back", "handed_back", number]];

function rankText(rank, i) {
  const parts = RANK_FIELDS.map(([name, field, format]) => `${name} ${range(lane(field, rank), i, format)}`);
  return lanes.count === 0 ? "no steps" : `Rank ${rank}, ${stepsOf(lanes, i)}: ${parts.join("; ")}`;
}

// Its levers, as runs of columns with the same ones.
function leverRuns(read, x, y) {
  const found = [];
  for (let i = 0, end; i < lanes.count; i = end) {
    const value = read.max(i);
    for (end = i + 1; end < lanes.count && read.max(end) === value; end++);
    if (value !== null && value > 0) {
      const width = x(end) - x(i), name = levers(value);
      found.push(svg("rect", { class: "lever", x: x(i), y, width: Math.max(1, width), height: 13 }));
      if (width > 7 * name.length) {
        found.push(svg("text", { class: "strong", x: x(i) + 3, y: y + 10.5 }, name));
      }
    }
  }
  return found;
}

function marks(read, x, y, shape, style) {
  const found = [];
  for (let i = 0; i < lanes.count; i++) {
    if (read.max(i) > 0) {
      found.push(svg("path", { class: style, d: shape, transform: `translate(${x(i + 0.5)} ${y})` }));
    }
  }
  return found;
}

const laneViews = []; // which have one cursor

const anywhere = (field) => everyRank.some((rank) => highest(lane(field, rank).max, lanes.count) > 0);

function rankLane(rank, most) {
  const height = 118, microTop = 130, microHeight = 28, leversTop = 164, marksTop = leversTop + (anywhere("levers") ? 16 : 0);
  const bottom = marksTop + (anywhere("oom_retries") || anywhere("handed_back") ? 22 : 0);
  const view = { rank, cursor: Math.max(0, lanes.count - 1) };
  const plot = svg("svg", { class: "plot", height: bottom + 20, tabindex: "0", role: "application", "aria-roledescription": "chart" });
  const readout = html("div", { class: "readout", "aria-live": "polite" }), title = html("h3", {});
  let x = null;
  view.show = (speaks) => {
    readout.textContent = speaks ? rankText(view.rank, view.cursor) : "";
    plot.querySelector(".cursor")?.setAttribute("transform", `translate(${x(view.cursor + 0.5)} 0)`);
  };
  view.draw = () => {
    const width = plot.clientWidth, read = (field) => lane(field, view.rank);
    const y = scale([0, most], [height, 8]), micro = read("micro_batch");
    const [, largest] = extent([micro], lanes.count, 0), my = scale([0, largest], [microTop + microHeight, microTop]);
    const level = (reading, map) => (i) => (reading(i) === null ? null : map(reading(i)));
    const stepsShown = Math.max(1, lanes.count * lanes.stride), atStep = scale([0, stepsShown], [LEFT, width - RIGHT]);
    x = (i) => atStep(i * lanes.stride);
    title.textContent = `Rank ${view.rank}`;
    plot.setAttribute("aria-label", `Memory, micro-batch and levers of rank ${view.rank}. Arrow keys move along the steps; a table follows.`);
    plot.replaceChildren(axes(width, bottom, 8, { low: 0, high: stepsShown, at: atStep }, { low: 0, high: most, at: y }, bytes));
    plot.append(svg("path", { class: "fill-held", d: band(lanes.count, x, (i) => (read("reserved_peak_bytes").max(i) === null ? null : y(0)), level(read("reserved_peak_bytes").max, y)) }));
    for (const line of MEMORY_LINES) {
      const reading = read(line.field);
      if (!reading.exact) {
        plot.append(svg("path", { class: "fill-band", d: band(lanes.count, x, level(reading.min, y), level(reading.max, y)) }));
      }
      plot.append(svg("path", { class: `line ${line.style}`, d: stairs(lanes.count, x, level(line.field === "allocated_peak_bytes" ? reading.max : reading.min, y)) }));
    }
    plot.append(svg("path", { class: "line second", d: stairs(lanes.count, x, level(micro.max, my)) }),
                svg("text", { x: LEFT - 6, y: microTop + 24, "text-anchor": "end" }, "at once"),
                svg("text", { x: LEFT - 6, y: microTop + 11, "text-anchor": "end" }, `up to ${number(largest)}`),
                ...leverRuns(read("levers"), x, leversTop),
                ...marks(read("oom_retries"), x, marksTop, "M0 0L4.5 9H-4.5Z", "mark-bad"),
                ...marks(read("handed_back"), x, marksTop + 11, "M0 -1L4 4L0 9L-4 4Z", "mark-moved"),
                svg("line", { class: "cursor", x1: 0, x2: 0, y1: 8, y2: bottom }));
    view.show(false);
  };
  whenSized(plot, view.draw);
  const go = (i) => {
    for (const other of laneViews) {
      other.cursor = clamp(i, 0, Math.max(0, lanes.count - 1));
      other.show(other === view);
    }
  };
  steer(plot, (dx) => go(view.cursor + dx), (px) => go(Math.floor(((px - LEFT) / Math.max(1, plot.clientWidth - LEFT - RIGHT)) * lanes.count)));
  view.element = html("section", { class: "panel" }, title, plot, readout);
  laneViews.push(view);
  return view;
}

function summaryOf(rank) {
  const count = lanes.count;
  return [number(rank), figure(lowest(lane("limit_bytes", rank).min, count), bytes), figure(lowest(lane("headroom_bytes", rank).min, count), bytes),
          figure(highest(lane("allocated_peak_bytes", rank).max, count), bytes), figure(highest(lane("reserved_peak_bytes", rank).max, count), bytes),
          figure(lowest(lane("micro_batch", rank).min, count), number), figure(highest(lane("micro_batch", rank).max, count), number),
          figure(sum(lane("oom_retries", rank).max, count), number), figure(sum(lane("handed_back", rank).max, count), number)];
}

function summaryTable() {
  const heads = ["rank", "lowest limit", "lowest headroom", "allocated peak", "reserved peak", "smallest micro-batch", "largest micro-batch", "refused", "handed back"];
  return behind("All ranks as a table", table("table-ranks", "Over all steps", heads, everyRank.map(summaryOf)));
}

function rankTable(rank) {
  const rows = [];
  for (let i = 0; i < lanes.count; i++) {
    rows.push([stepsOf(lanes, i).replace(/^steps? /, ""), ...RANK_FIELDS.flatMap(([, field, format]) => {
      const read = lane(field, rank);
      return read.exact ? [figure(read.max(i), format)] : [figure(read.min(i), format), figure(read.max(i), format)];
    })]);
  }
  const heads = RANK_FIELDS.flatMap(([name, field]) => (lane(field, rank).exact ? [name] : [`${name}, least`, `${name}, greatest`]));
  return table("table-rank", `Rank ${rank}`, ["steps", ...heads], rows);
}

function rankChooser(chosen) {
  const input = html("input", { type: "number", id: "rank", min: 0, max: ranks - 1, value: 0 });
  input.addEventListener("input", () => {
    if (input.validity.valid && input.value !== "") {
      chosen(Number(input.value));
    }
  });
  return { input, element: html("span", {}, html("label", { for: "rank" }, "Rank "), input) };
}

// field, how several are told as one, format
const HEAT_FIELDS = [["Lowest headroom", "headroom_bytes", "min", bytes], ["Headroom as a part of the limit", null, "min", (value) => `${(100 * value).toFixed(1)} %`],
                     ["Allocated peak", "allocated_peak_bytes", "max", bytes], ["Reserved peak", "reserved_peak_bytes", "max", bytes], ["Limit", "limit_bytes", "min", bytes],
                     ["Share", "share", "max", number], ["Micro-batch", "micro_batch", "min", number], ["Levers", "levers", "max", levers],
                     ["Refused allocations", "oom_retries", "max", number], ["Samples handed back", "handed_back", "max", number]];

// values[rank][column]
function heatValues([, field, which]) {
  return everyRank.map((rank) => {
    const read = lane(field ?? "headroom_bytes", rank), limit = lane("limit_bytes", rank);
    const one = (i) => (field !== null || read.min(i) === null ? read[which](i) : read.min(i) / limit.min(i));
    return Array.from({ length: lanes.count }, (_, i) => one(i));
  });
}

function mix(low, high, part) {
  const channels = (text) => [1, 3, 5].map((i) => parseInt(text.slice(i, i + 2), 16));
  const [a, b] = [channels(low), channels(high)];
  return `rgb(${a.map((value, i) => Math.round(value + (b[i] - value) * part)).join(" ")})`;
}

function quantiles(values) {
  const cut = (sorted, part) => sorted[Math.round(part * (sorted.length - 1))] ?? null;
  const columns = Array.from({ length: lanes.count }, (_, i) => values.map((row) => row[i]).filter((value) => value !== null).sort((a, b) => a - b));
  const line = (part) => {
    const read = (i) => cut(columns[i], part);
    return { min: read, max: read, mean: read, exact: true };
  };
  return [["lowest", 0, "third"], ["10 % of ranks below", 0.1, "second"], ["median", 0.5, "first"], ["90 % of ranks below", 0.9, "fourth"], ["highest", 1, "limit"]]
    .map(([name, part, style]) => ({ name, style, read: line(part) }));
}

function heat(chosen) {
  const canvas = html("canvas", { class: "plot", tabindex: "0", role: "application", "aria-roledescription": "heat map",
                                  "aria-label": "Ranks over steps. Left and right move along the steps, up and down along the ranks." });
  const readout = html("div", { class: "readout", "aria-live": "polite" }), key = html("div", { class: "legend" });
  const select = html("select", { id: "field" }, ...HEAT_FIELDS.map(([name], i) => html("option", { value: i }, name)));
  const folded = Math.ceil(ranks / 240), rows = Math.ceil(ranks / folded), height = clamp(rows * 12, 160, 480);
  const spread = html("div", {}), note = html("p", {});
  const view = { rank: 0, column: Math.max(0, lanes.count - 1) };
  let field, values;
  const draw = () => {
    const width = canvas.clientWidth, dots = devicePixelRatio || 1, context = canvas.getContext("2d");
    let low = Infinity, high = -Infinity;
    values.flat().filter((value) => value !== null).forEach((value) => { low = Math.min(low, value); high = Math.max(high, value); });
    canvas.width = width * dots;
    canvas.height = (height + 22) * dots;
    canvas.style.height = `${height + 22}px`;
    context.scale(dots, dots);
    context.font = "11.5px system-ui, sans-serif";
    const x = scale([0, lanes.count], [LEFT, width - RIGHT]), y = scale([0, rows], [0, height]);
    const [from, to] = [colour("heat-low"), colour("heat-high")];
    for (let row = 0; row < rows; row++) {
      for (let i = 0; i < lanes.count; i++) {
        const several = values.slice(row * folded, (row + 1) * folded).map((one) => one[i]).filter((value) => value !== null);
        if (several.length > 0) {
          const value = Math[field[2]](...several);
          context.fillStyle = mix(from, to, high > low ? (value - low) / (high - low) : 0);
          context.fillRect(x(i), y(row), x(i + 1) - x(i) + 0.5, y(row + 1) - y(row) + 0.5);
        }
      }
    }
    context.fillStyle = colour("muted");
    context.textAlign = "right";
    for (const tick of ticks(0, ranks - 1, 6).filter(Number.isInteger)) {
      context.fillText(`rank ${tick}`, LEFT - 6, clamp(y(tick / folded) + 8, 9, height));
    }
    context.textAlign = "center";
    for (const tick of ticks(0, lanes.count * lanes.stride, Math.floor(width / 130))) {
      context.fillText(whole.format(tick), x(tick / lanes.stride), height + 16);
    }
    context.strokeStyle = colour("bad");
    context.lineWidth = 2;
    context.strokeRect(x(view.column) - 1, y(Math.floor(view.rank / folded)) - 1, x(view.column + 1) - x(view.column) + 2, Math.max(4, y(1) - y(0)) + 2);
    const bar = svg("svg", { width: 120, height: 12, "aria-hidden": "true" }, ...Array.from({ length: 24 }, (_, i) => svg("rect", { x: i * 5, y: 0, width: 5.5, height: 12, fill: mix(from, to, i / 23) })));
    key.replaceChildren(html("span", {}, low <= high ? `${field[3](low)} ` : "", bar, low <= high ? field[3](high) : ""));
  };
  const show = () => {
    draw();
    readout.textContent = rankText(view.rank, view.column);
  };
  const choose = () => {
    field = HEAT_FIELDS[Number(select.value)];
    values = heatValues(field);
    note.textContent = folded > 1 ? `A row is ${folded} ranks, of which the one with the ${field[2] === "min" ? "least" : "most"} counts.` : "A row is a rank.";
    spread.replaceChildren(lineChart({ id: "spread", title: `${field[0]}, over the ranks`, columns: lanes, format: field[3], series: quantiles(values), height: 170 }));
    draw();
  };
  view.go = (rank, column) => {
    view.rank = clamp(rank, 0, ranks - 1);
    view.column = clamp(column, 0, Math.max(0, lanes.count - 1));
    show();
  };
  select.addEventListener("change", choose);
  whenSized(canvas, () => values && draw());
  steer(canvas, (dx, dy) => { view.go(view.rank + dy, view.column + dx); chosen(view.rank); }, (px, py, pressed) => {
    if (pressed) {
      view.go(Math.floor((py / height) * rows) * folded, Math.floor(((px - LEFT) / (canvas.clientWidth - LEFT - RIGHT)) * lanes.count));
      chosen(view.rank);
    }
  });
  view.element = html("div", {}, html("section", { class: "panel" }, html("div", { class: "heading" }, html("span", {}, html("label", { for: "field" }, "Show "), select), key), canvas, readout, note), spread);
  requestAnimationFrame(choose);
  return view;
}

function rankSection() {
  const most = everyRank.reduce((found, rank) => Math.max(found, highest(lane("limit_bytes", rank).max, lanes.count) ?? 0, highest(lane("reserved_peak_bytes", rank).max, lanes.count) ?? 0), 1) * 1.04;
  const parts = [html("h2", {}, "Ranks"), html("p", {}, "What each rank may hold, what it held at the peak of a step, and how it cut its share.")];
  const holder = html("div", {}, rankTable(0));
  if (ranks <= LANES_SHOWN) {
    const chooser = rankChooser((rank) => holder.replaceChildren(rankTable(rank)));
    parts.push(legend(LANE_LEGEND), ...everyRank.map((rank) => rankLane(rank, most).element),
               html("section", { class: "panel" }, summaryTable(), behind("The steps of one rank as a table", chooser.element, holder)));
    return parts;
  }
  const view = rankLane(0, most);
  const show = (rank) => {
    view.rank = rank;
    view.draw();
    holder.replaceChildren(rankTable(rank));
  };
  const map = heat((rank) => { chooser.input.value = rank; show(rank); });
  const chooser = rankChooser((rank) => { map.go(rank, map.column); show(rank); });
  view.element.append(behind("This rank's steps as a table", holder));
  parts.push(map.element, html("div", { class: "controls" }, chooser.element, legend(LANE_LEGEND)), view.element, html("section", { class: "panel" }, summaryTable()));
  return parts;
}

// ---- memory within a step

const CATEGORIES = { samples: "samples", kept: "activations kept for the backward pass", forward: "of the forward pass alone", backward: "of the backward pass" };

function pattern(context, name) {
  const tile = document.createElement("canvas"), brush = tile.getContext("2d");
  tile.width = tile.height = 8;
  brush.fillStyle = colour(name);
  brush.fillRect(0, 0, 8, 8);
  brush.strokeStyle = colour("surface");
  brush.globalAlpha = 0.35;
  const strokes = { forward: [[0, 8, 8, 0], [-2, 2, 2, -2], [6, 10, 10, 6]], backward: [[0, 0, 8, 8], [-2, 6, 2, 10], [6, -2, 10, 2]], samples: [[0, 4, 8, 4]] };
  for (const [x1, y1, x2, y2] of strokes[name] ?? []) {
    brush.beginPath();
    brush.moveTo(x1, y1);
    brush.lineTo(x2, y2);
    brush.stroke();
  }
  return context.createPattern(tile, "repeat");
}

function liveAt(memory, operation) {
  return memory.tensors.filter((tensor) => tensor.first <= operation && operation <= tensor.last);
}

const together = (tensors) => tensors.reduce((all, tensor) => all + tensor.bytes, 0);

function peakOperation(memory) {
  const change = new Array(memory.operations.length + 1).fill(0);
  for (const tensor of memory.tensors) {
    change[tensor.first] += tensor.bytes;
    change[tensor.last + 1] -= tensor.bytes;
  }
  let live = 0, best = 0, most = -1;
  for (let i = 0; i < memory.operations.length; i++) {
    live += change[i];
    if (live > most) {
      [most, best] = [live, i];
    }
  }
  return best;
}

const operationName = (memory, i) => `operation ${i} of ${memory.operations.length}, ${memory.operations[i][0]} ${memory.operations[i][1]}`.trim();

function layoutChart(memory, peak) {
  const height = 340;
  const canvas = html("canvas", { class: "plot", tabindex: "0", role: "application", "aria-roledescription": "chart",
                                  "aria-label": "Tensors of a micro-step by time and address. Left and right move along the operations, up and down among the tensors that live there." });
  const readout = html("div", { class: "readout", "aria-live": "polite" });
  let operation = peak, chosen = null;
  const live = () => liveAt(memory, operation).sort((a, b) => b.offset - a.offset);
  const draw = () => {
    const width = canvas.clientWidth, dots = devicePixelRatio || 1, context = canvas.getContext("2d");
    canvas.width = width * dots;
    canvas.height = (height + 22) * dots;
    canvas.style.height = `${height + 22}px`;
    context.scale(dots, dots);
    context.font = "11.5px system-ui, sans-serif";
    const x = scale([0, memory.operations.length], [LEFT, width - RIGHT]), y = scale([0, memory.block_bytes], [height, 12]);
    const fills = Object.fromEntries(Object.keys(CATEGORIES).map((name) => [name, pattern(context, name)]));
    context.textAlign = "right";
    for (const tick of ticks(0, memory.block_bytes, 6, true)) {
      context.fillStyle = colour("grid");
      context.fillRect(LEFT, y(tick), width - LEFT - RIGHT, 1);
      context.fillStyle = colour("muted");
      context.fillText(roundBytes(tick), LEFT - 6, y(tick) + 4);
    }
    for (const tensor of memory.tensors) {
      const left = x(tensor.first), right = x(tensor.last + 1), top = y(tensor.offset + tensor.bytes), bottom = y(tensor.offset);
      context.fillStyle = fills[tensor.category];
      context.fillRect(left, top, right - left, bottom - top);
      context.strokeStyle = colour("surface");
      context.lineWidth = 0.7;
      context.strokeRect(left, top, right - left, bottom - top);
      if (bottom - top > 15 && right - left > context.measureText(tensor.name).width + 10) {
        const wide = context.measureText(tensor.name).width;
        context.fillStyle = colour(tensor.category);
        context.fillRect(left + 2, (top + bottom) / 2 - 8, wide + 6, 16);
        context.fillStyle = colour("on");
        context.textAlign = "left";
        context.fillText(tensor.name, left + 5, (top + bottom) / 2 + 4);
        context.textAlign = "right";
      }
    }
    context.fillStyle = colour("ink");
    context.fillRect(x(memory.forward_count), 12, 1, height - 12);
    context.fillText("forward ", x(memory.forward_count), height + 16);
    context.textAlign = "left";
    context.fillText(" backward", x(memory.forward_count), height + 16);
    context.setLineDash([2, 2]);
    context.strokeStyle = colour("ink");
    context.strokeRect(x(operation), 12, Math.max(1, x(1) - x(0)), height - 12);
    context.setLineDash([]);
    if (chosen !== null) {
      context.lineWidth = 2.5;
      context.strokeRect(x(chosen.first), y(chosen.offset + chosen.bytes), x(chosen.last + 1) - x(chosen.first), y(chosen.offset) - y(chosen.offset + chosen.bytes));
    }
  };
  const show = () => {
    const there = live();
    const detail = chosen === null ? "" : ` ${chosen.name}: ${bytes(chosen.bytes)}, ${CATEGORIES[chosen.category]}, operations ${chosen.first} to ${chosen.last}.`;
    readout.textContent = `${operationName(memory, operation)}: ${bytes(together(there))} in ${there.length} tensors${operation === peak ? ", the peak" : ""}.${detail}`;
    draw();
  };
  steer(canvas, (dx, dy) => {
    operation = clamp(operation + dx, 0, memory.operations.length - 1);
    const there = live(), now = there.indexOf(chosen);
    chosen = dy === 0 ? (now >= 0 ? chosen : null) : there[clamp(now < 0 ? 0 : now + dy, 0, there.length - 1)] ?? null;
    show();
  }, (px, py) => {
    operation = clamp(Math.floor(((px - LEFT) / (canvas.clientWidth - LEFT - RIGHT)) * memory.operations.length), 0, memory.operations.length - 1);
    const address = ((height - py) / (height - 12)) * memory.block_bytes;
    chosen = live().find((tensor) => tensor.offset <= address && address < tensor.offset + tensor.bytes) ?? null;
    show();
  });
  whenSized(canvas, show);
  return [canvas, readout];
}

const swatch = (name) => svg("svg", { width: 14, height: 12, "aria-hidden": "true" }, svg("rect", { width: 12, height: 12, rx: 2, fill: `var(--${name})` }));

// What rests and the micro-step's block, to one scale.
function deviceBar(memory) {
  const parts = [...Object.entries(memory.resting).filter(([, size]) => size > 0).map(([name, size]) => [name, size, "resting"]), ["micro-step", memory.block_bytes, "kept"]];
  const all = parts.reduce((so, [, size]) => so + size, 0);
  const plot = svg("svg", { class: "plot", height: 52, role: "img", "aria-label": `On the device: ${parts.map(([name, size]) => `${name} ${bytes(size)}`).join(", ")}` });
  whenSized(plot, (width) => {
    let left = 0;
    plot.replaceChildren();
    for (const [name, size, fill] of parts) {
      const wide = (size / all) * width;
      plot.append(svg("rect", { x: left, y: 0, width: Math.max(1, wide - 2), height: 26, rx: 3, fill: `var(--${fill})` }));
      if (wide > 6.5 * Math.max(name.length, bytes(size).length)) {
        plot.append(svg("text", { class: "strong", x: left + 2, y: 40 }, name), svg("text", { x: left + 2, y: 52 }, bytes(size)));
      }
      left += wide;
    }
  });
  return { plot, all, parts };
}

function memorySection() {
  const memory = report.memory;
  if (memory.why !== undefined) {
    return [html("h2", {}, "Memory within a step"), html("p", {}, `Not priced: ${memory.why}`)];
  }
  const peak = peakOperation(memory), there = liveAt(memory, peak).sort((a, b) => b.bytes - a.bytes);
  const bar = deviceBar(memory), [canvas, readout] = layoutChart(memory, peak);
  const about = `A micro-batch of ${number(memory.micro_batch)}` + (memory.length > 1 ? ` with ${number(memory.length)} targets a sample` : "") + `, levers ${memory.levers}, as the configuration is priced: ` +
    `${bytes(bar.all)} in all.` + (memory.sharded ? " The optimizer's state is an equal shard." : "");
  const groups = Object.entries(CATEGORIES).map(([name, text]) => [text, figure(together(there.filter((tensor) => tensor.category === name)), bytes)]);
  const tensors = there.map((tensor) => [tensor.name, figure(tensor.bytes, bytes), CATEGORIES[tensor.category], number(tensor.first), number(tensor.last)]);
  const resting = bar.parts.map(([name, size]) => [name, figure(size, bytes)]);
  return [
    html("h2", {}, "Memory within a step"), html("p", {}, about),
    html("section", { class: "panel" }, html("h3", {}, "On the device"), bar.plot, behind("As a table", table("table-resting", "On the device", ["what", "bytes"], resting))),
    html("section", { class: "panel" },
         html("div", { class: "heading" }, html("h3", {}, "Tensors of a micro-step, by operation and address"),
              html("div", { class: "legend" }, ...Object.entries(CATEGORIES).map(([name, text]) => html("span", {}, swatch(name), ` ${text}`)))),
         canvas, readout,
         behind("The peak as a table", table("table-categories", `At the peak, ${operationName(memory, peak)}`, ["what for", "bytes"], groups),
                table("table-tensors", "Tensors that live there", ["tensor", "bytes", "what for", "from operation", "to operation"], tensors))),
  ];
}

// ---- what else there is

function eventText(event) {
  if (event.kind === "resume") {
    return `went on with ${number(event.ranks)} ranks from ${event.text}`;
  }
  return event.kind === "end" ? `${(ENDS[event.status] ?? [`code ${event.status}`])[0]} after ${duration(event.seconds)}` : `checkpoint not written: ${event.text}`;
}

function appendix() {
  const { checkpoints, run } = report;
  const written = checkpoints.written === 0 ? "No checkpoint was written." : `${number(checkpoints.written)} checkpoints were written, ${bytes(checkpoints.bytes)}; training waited ${duration(checkpoints.pause_ms / 1000)} for them.`;
  const events = run.events.length === 0 ? null : table("table-events", "Processes", ["steps done", "what happened"], run.events.map((event) => [number(event.step), eventText(event)]));
  return [html("h2", {}, "Record"),
          html("section", { class: "panel" }, html("p", {}, written), events, behind("Environment", html("pre", {}, run.environment)), behind("Configuration", html("pre", {}, run.configuration)))];
}

function build() {
  header();
  main.append(tiles(), ...(report.findings.length > 0 ? findings() : []));
  if (report.run.newest === null) {
    main.append(html("h2", {}, "Training"), html("p", {}, "No step has been done yet."));
  } else {
    main.append(...training(), ...rankSection());
  }
  main.append(...memorySection(), ...appendix());
}

build();
