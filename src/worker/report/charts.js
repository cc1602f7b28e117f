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

function axes(width, height, top, xs, ys, format) {
  const group = svg("g", {});
  for (const tick of ticks(ys.low, ys.high, Math.max(2, Math.floor((height - top) / 45)), format === bytes)) {
    group.append(svg("line", {x1: LEFT, x2: width - RIGHT, y1: ys.at(tick), y2: ys.at(tick), class: "grid-line"}),
      svg("text", {x: LEFT - 6, y: ys.at(tick) + 4, "text-anchor": "end"}, tickText(tick, format)));
  }
  for (const tick of ticks(xs.low, xs.high, Math.max(2, Math.floor(width / 130)))) {
    if (Number.isInteger(tick)) {
      group.append(svg("text", {x: xs.at(tick), y: height + 16, "text-anchor": "middle"}, whole.format(tick)));
    }
  }
  return group;
}

const resumes = report.run.events.filter((event) => event.kind === "resume" && event.step > 0);

// options: id, title, columns, series [{name, style, read, band}], points {columns, read, name}, format, from, height
function lineChart(options) {
  const {columns, series, format} = options, height = options.height ?? 200, top = 10;
  const plot = svg("svg", {
    class: "plot",
    height: height + 22,
    tabindex: "0",
    role: "application",
    "aria-roledescription": "chart",
    "aria-label": `${options.title}. Arrow keys move along the steps; a table follows.`
  });
  const readout = html("div", {class: "readout", "aria-live": "polite"});
  const entries = [
    ...series.map((one) => ({name: one.name, style: one.style})),
    ...(options.points ? [{name: options.points.name, style: "dot-second", as: "dot"}] : [])
  ];
  let cursor = columns.count - 1, place = null;

  const describe = () => {
    const parts = series.map((one) => `${one.name} ${range(one.read, cursor, format)}` +
        (one.read.exact ? "" : `, mean ${format(one.read.mean(cursor))}`));
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
    plot.replaceChildren(axes(width, height, top, {low: 0, high: steps, at: atStep}, {low, high, at: y}, format));
    for (const one of series) {
      if (!one.read.exact) {
        plot.append(
          svg("path", {class: "fill-band", d: band(columns.count, place, value(one.read.min), value(one.read.max))}));
      }
      plot.append(
        svg("path", {class: `line ${one.style}`, d: path(columns.count, (i) => place(i + 0.5), value(one.read.mean))}));
    }
    for (const event of resumes) {
      plot.append(svg("line", {class: "resumed", x1: atStep(event.step), x2: atStep(event.step), y1: top, y2: height}));
    }
    if (options.points) {
      const {columns: where, read} = options.points;
      for (let i = 0; i < where.count; i++) {
        if (read.mean(i) !== null) {
          plot.append(svg("circle", {
            class: "dot-second",
            r: where.count > 120 ? 2 : 3.5,
            cx: atStep(Math.min(i * where.stride, steps)),
            cy: y(read.mean(i))
          }));
        }
      }
    }
    plot.append(svg("line", {class: "cursor", x1: 0, x2: 0, y1: top, y2: height}));
    show();
  });
  const go = (i) => {
    cursor = clamp(i, 0, Math.max(0, columns.count - 1));
    show();
  };
  steer(plot, (dx) => go(cursor + dx),
    (x) => go(Math.floor(((x - LEFT) / Math.max(1, plot.clientWidth - LEFT - RIGHT)) * columns.count)));

  const heads = ["steps"], rows = [];
  for (const one of series) {
    heads.push(...(one.read.exact ? [one.name] : [`${one.name}, least`, `${one.name}, mean`, `${one.name}, greatest`]));
  }
  for (let i = 0; i < columns.count; i++) {
    const of = (one) => (one.read.exact ? [one.read.mean(i)] : [one.read.min(i), one.read.mean(i), one.read.max(i)]);
    rows.push(
      [stepsOf(columns, i).replace(/^steps? /, ""), ...series.flatMap(of).map((value) => figure(value, format))]);
  }
  const tables = [table(`table-${options.id}`, options.title, heads, rows)];
  if (options.points) {
    const {columns: where, read, name} = options.points, points = [];
    for (let i = 0; i < where.count; i++) {
      if (read.mean(i) !== null) {
        points.push(
          [number(i * where.stride), ...options.points.also.map((more) => figure(more.read.mean(i), more.format))]);
      }
    }
    tables.push(table(
      `table-${options.id}-points`, name, ["steps done", ...options.points.also.map((more) => more.name)], points));
  }
  return html("section", {class: "panel", "aria-labelledby": `title-${options.id}`},
    html("div", {class: "heading"}, html("h3", {id: `title-${options.id}`}, options.title), legend(entries)), plot,
    readout, behind("As a table", ...tables));
}
