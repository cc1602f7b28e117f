// SPDX-License-Identifier: Apache-2.0
//
// Charts: what can be focused, with a cursor that arrow keys and the pointer move.

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
  const keys = {
    ArrowLeft: [-1, 0],
    ArrowRight: [1, 0],
    ArrowUp: [0, -1],
    ArrowDown: [0, 1],
    PageUp: [-10, 0],
    PageDown: [10, 0],
    Home: [-Infinity, 0],
    End: [Infinity, 0]
  };
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
  const rough = (high - low) / count,
        base = binary ? 2 ** Math.floor(Math.log2(rough)) : 10 ** Math.floor(Math.log10(rough));
  const step =
    base * (binary ? (rough / base > 1.5 ? 2 : 1) : [1, 2, 5, 10].find((factor) => factor * base >= rough * 0.999));
  const found = [];
  for (let tick = Math.ceil(low / step) * step; tick <= high + step * 1e-9; tick += step) {
    found.push(Math.abs(tick) < step * 1e-9 ? 0 : tick);
  }
  return found;
}

function scale(from, to) {
  return (value) => to[0] + ((value - from[0]) / (from[1] - from[0] || 1)) * (to[1] - to[0]);
}

const stepTicks = (width, steps) => ticks(0, steps, Math.max(2, Math.floor(width / 130))).filter(Number.isInteger);

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
    const drawn = {
      line: () => svg("line", {x1: 0, y1: 6, x2: 24, y2: 6, class: `line ${entry.style}`}),
      fill: () => svg("rect", {x: 2, y: 1, width: 20, height: 10, class: entry.style}),
      dot: () => svg("circle", {cx: 12, cy: 6, r: 3.5, class: entry.style}),
      up: () => svg("path", {d: "M12 1L17 11H7Z", class: entry.style}),
      diamond: () => svg("path", {d: "M12 1L17 6L12 11L7 6Z", class: entry.style})
    };
    return html(
      "span", {}, svg("svg", {width: 24, height: 12, "aria-hidden": "true"}, drawn[entry.as ?? "line"]()), entry.name);
  };
  return html("div", {class: "legend"}, ...entries.map(key));
}

// Down to `bottom`, where the steps are told.
function axes({width, height, top, low, high, y, steps, atStep}, bottom, format) {
  const group = svg("g", {});
  for (const tick of ticks(low, high, Math.max(2, Math.floor((height - top) / 32)), format === bytes)) {
    group.append(svg("line", {x1: LEFT, x2: width - RIGHT, y1: y(tick), y2: y(tick), class: "grid-line"}),
      svg("text", {x: LEFT - 6, y: y(tick) + 4, "text-anchor": "end"}, tickText(tick, format)));
  }
  group.append(svg("text", {x: LEFT - 14, y: bottom + 16, "text-anchor": "end"}, "step"));
  for (const tick of stepTicks(width, steps)) {
    group.append(svg("text", {x: atStep(tick), y: bottom + 16, "text-anchor": "middle"}, whole.format(tick)));
  }
  return group;
}

const resumes = report.run.events.filter((event) => event.kind === "resume" && event.step > 0);

const PLOT = {
  class: "plot",
  tabindex: "0",
  role: "application",
  "aria-roledescription": "chart"
};
const readoutElement = () => html("div", {class: "readout", "aria-live": "polite"});

// The column under a pointer.
function columnUnder(plot, x, count) {
  return Math.floor(((x - LEFT) / Math.max(1, plot.clientWidth - LEFT - RIGHT)) * count);
}

// Makes a canvas as sharp as the screen, and answers what draws on it.
function brush(canvas, height) {
  const dots = devicePixelRatio || 1, context = canvas.getContext("2d");
  canvas.width = canvas.clientWidth * dots;
  canvas.height = height * dots;
  canvas.style.height = `${height}px`;
  context.scale(dots, dots);
  context.font = "11.5px system-ui, sans-serif";
  return context;
}

// From values to pixels: `place(i)` is where column i begins.
function frame(width, height, top, columns, low, high) {
  const steps = Math.max(1, columns.count * columns.stride), atStep = scale([0, steps], [LEFT, width - RIGHT]);
  const y = scale([low, high], [height, top]);
  return {
    width,
    height,
    top,
    low,
    high,
    steps,
    atStep,
    y,
    place: (i) => atStep(i * columns.stride),
    level: (read, map = y) => (i) => (read(i) === null ? null : map(read(i)))
  };
}

function drawSeries(frame, count, {read, style}) {
  const {place, level} = frame;
  const line = svg("path", {class: `line ${style}`, d: path(count, (i) => place(i + 0.5), level(read.mean))});
  if (read.exact) {
    return [line];
  }
  return [svg("path", {class: "fill-band", d: band(count, place, level(read.min), level(read.max))}), line];
}

function drawPoints({atStep, steps, y}, {columns, read}) {
  const found = [];
  for (let i = 0; i < columns.count; i++) {
    if (read.mean(i) !== null) {
      const cx = atStep(Math.min(i * columns.stride, steps)), r = columns.count > 120 ? 2 : 3.5;
      found.push(svg("circle", {class: "dot-second", r, cx, cy: y(read.mean(i))}));
    }
  }
  return found;
}

function drawResumes({atStep, top, height}) {
  return resumes.map(
    ({step}) => svg("line", {class: "resumed", x1: atStep(step), x2: atStep(step), y1: top, y2: height}));
}

const cursorLine = (top, bottom) => svg("line", {class: "cursor", x1: 0, x2: 0, y1: top, y2: bottom});

// Of a chart whose last element is its cursor line; of one that has no size yet, later.
function placeCursor(plot, drawn, cursor) {
  if (drawn !== null) {
    plot.lastChild.setAttribute("transform", `translate(${drawn.place(cursor + 0.5)} 0)`);
  }
}

const STATISTICS = [["least", "min"], ["mean", "mean"], ["greatest", "max"]];

function seriesTable({id, title, columns, series, format}) {
  const heads =
    series.flatMap(({name, read}) => (read.exact ? [name] : STATISTICS.map(([statistic]) => `${name}, ${statistic}`)));
  const cells = (i) =>
    series.flatMap(({read}) => (read.exact ? [read.mean(i)] : STATISTICS.map(([, statistic]) => read[statistic](i))));
  const rows = Array.from(
    {length: columns.count}, (_, i) => [stepNumbers(columns, i), ...cells(i).map((value) => figure(value, format))]);
  return table(`table-${id}`, title, ["steps", ...heads], rows);
}

function pointsTable(id, {columns, read, name, also}) {
  const rows = [];
  for (let i = 0; i < columns.count; i++) {
    if (read.mean(i) !== null) {
      rows.push([number(i * columns.stride), ...also.map((more) => figure(more.read.mean(i), more.format))]);
    }
  }
  return table(`table-${id}-points`, name, ["steps done", ...also.map((more) => more.name)], rows);
}

function seriesText({columns, series, format}, i) {
  const parts = series.map(
    ({name, read}) => `${name} ${range(read, i, format)}` + (read.exact ? "" : `, mean ${format(read.mean(i))}`));
  return columns.count === 0 ? "no steps" : `${stepsOf(columns, i)}: ${parts.join("; ")}`;
}

// options: id, title, columns, series [{name, style, read}], points {columns, read, name, also}, format, from, height
function lineChart(options) {
  const {id, title, columns, series, points, format} = options, height = options.height ?? 200, top = 10;
  const label = `${title}. Arrow keys move along the steps; a table follows.`;
  const plot = svg("svg", {...PLOT, height: height + 22, "aria-label": label}), readout = readoutElement();
  const reads = [...series, ...(points ? [points] : [])].map(({read}) => read);
  let cursor = Math.max(0, columns.count - 1), drawn = null;
  const show = () => {
    readout.textContent = seriesText(options, cursor);
    placeCursor(plot, drawn, cursor);
  };
  whenSized(plot, (width) => {
    const [low, high] = extent(reads, Math.max(columns.count, points?.columns.count ?? 0), options.from);
    drawn = frame(width, height, top, columns, low, high);
    plot.replaceChildren(axes(drawn, height, format), ...series.flatMap((one) => drawSeries(drawn, columns.count, one)),
      ...drawResumes(drawn), ...(points ? drawPoints(drawn, points) : []), cursorLine(top, height));
    show();
  });
  const go = (i) => {
    cursor = clamp(i, 0, Math.max(0, columns.count - 1));
    show();
  };
  steer(plot, (dx) => go(cursor + dx), (x) => go(columnUnder(plot, x, columns.count)));
  const entries = [...series, ...(points ? [{name: points.name, style: "dot-second", as: "dot"}] : [])];
  const tables = [seriesTable(options), points ? pointsTable(id, points) : ""];
  return html("section", {class: "panel", "aria-labelledby": `title-${id}`},
    html("div", {class: "heading"}, html("h3", {id: `title-${id}`}, title), legend(entries)), plot, readout,
    behind("As a table", ...tables));
}
