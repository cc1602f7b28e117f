// SPDX-License-Identifier: Apache-2.0
//
// Each rank over the steps: a lane for each of few, a heat map and quantiles of many.

const LANES_SHOWN = 16;  // more ranks are folded

const MEMORY_LINES = [
  {name: "limit", style: "limit", field: "limit_bytes"},
  {name: "allocated peak", style: "first", field: "allocated_peak_bytes"},
  {name: "headroom", style: "third", field: "headroom_bytes"}
];
const LANE_LEGEND = [
  ...MEMORY_LINES, {name: "reserved peak", style: "fill-held", as: "fill"}, {name: "micro-batch", style: "second"},
  {name: "levers", style: "lever", as: "fill"}, {name: "refused", style: "mark-bad", as: "up"},
  {name: "handed back", style: "mark-moved", as: "diamond"}
];
const RANK_FIELDS = [
  ["headroom", "headroom_bytes", bytes], ["allocated peak", "allocated_peak_bytes", bytes],
  ["reserved peak", "reserved_peak_bytes", bytes], ["limit", "limit_bytes", bytes], ["share", "share", number],
  ["micro-batch", "micro_batch", number], ["levers", "levers", levers], ["refused", "oom_retries", number],
  ["handed back", "handed_back", number]
];

function rankText(rank, i) {
  const parts = RANK_FIELDS.map(([name, field, format]) => `${name} ${range(lane(field, rank), i, format)}`);
  return lanes.count === 0 ? "no steps" : `Rank ${rank}, ${stepsOf(lanes, i)}: ${parts.join("; ")}`;
}

// Its levers, as runs of columns with the same ones.
function leverRuns(read, x, y) {
  const found = [];
  for (let i = 0, end; i < lanes.count; i = end) {
    const value = read.max(i);
    for (end = i + 1; end < lanes.count && read.max(end) === value; end++)
      ;
    if (value !== null && value > 0) {
      const width = x(end) - x(i), name = levers(value);
      found.push(svg("rect", {class: "lever", x: x(i), y, width: Math.max(1, width), height: 13}));
      if (width > 7 * name.length) {
        found.push(svg("text", {class: "strong", x: x(i) + 3, y: y + 10.5}, name));
      }
    }
  }
  return found;
}

function marks(read, x, y, shape, style) {
  const found = [];
  for (let i = 0; i < lanes.count; i++) {
    if (read.max(i) > 0) {
      found.push(svg("path", {class: style, d: shape, transform: `translate(${x(i + 0.5)} ${y})`}));
    }
  }
  return found;
}

const laneViews = [];  // which have one cursor

const anywhere = (field) => everyRank.some((rank) => highest(lane(field, rank).max, lanes.count) > 0);

function rankLane(rank, most) {
  const height = 118, microTop = 130, microHeight = 28, leversTop = 164,
        marksTop = leversTop + (anywhere("levers") ? 16 : 0);
  const bottom = marksTop + (anywhere("oom_retries") || anywhere("handed_back") ? 22 : 0);
  const view = {rank, cursor: Math.max(0, lanes.count - 1)};
  const plot = svg(
    "svg", {class: "plot", height: bottom + 20, tabindex: "0", role: "application", "aria-roledescription": "chart"});
  const readout = html("div", {class: "readout", "aria-live": "polite"}), title = html("h3", {});
  let x = null;
  view.show = (speaks) => {
    readout.textContent = speaks ? rankText(view.rank, view.cursor) : "";
    plot.querySelector(".cursor")?.setAttribute("transform", `translate(${x(view.cursor + 0.5)} 0)`);
  };
  view.draw = () => {
    const width = plot.clientWidth, read = (field) => lane(field, view.rank);
    const y = scale([0, most], [height, 8]), micro = read("micro_batch");
    const largest = highest(micro.max, lanes.count) ?? 0,
          my = scale([0, Math.max(1, largest)], [microTop + microHeight, microTop]);
    const level = (reading, map) => (i) => (reading(i) === null ? null : map(reading(i)));
    const stepsShown = Math.max(1, lanes.count * lanes.stride), atStep = scale([0, stepsShown], [LEFT, width - RIGHT]);
    x = (i) => atStep(i * lanes.stride);
    title.textContent = `Rank ${view.rank}`;
    plot.setAttribute("aria-label",
      `Memory, micro-batch and levers of rank ${view.rank}. Arrow keys move along the steps; a table follows.`);
    plot.replaceChildren(
      axes(width, bottom, 8, {low: 0, high: stepsShown, at: atStep}, {low: 0, high: most, at: y}, bytes));
    plot.append(svg("path", {
      class: "fill-held",
      d: band(lanes.count, x, (i) => (read("reserved_peak_bytes").max(i) === null ? null : y(0)),
        level(read("reserved_peak_bytes").max, y))
    }));
    for (const line of MEMORY_LINES) {
      const reading = read(line.field);
      if (!reading.exact) {
        plot.append(
          svg("path", {class: "fill-band", d: band(lanes.count, x, level(reading.min, y), level(reading.max, y))}));
      }
      plot.append(svg("path", {
        class: `line ${line.style}`,
        d: stairs(lanes.count, x, level(line.field === "allocated_peak_bytes" ? reading.max : reading.min, y))
      }));
    }
    plot.append(svg("path", {class: "line second", d: stairs(lanes.count, x, level(micro.max, my))}),
      svg("text", {x: LEFT - 6, y: microTop + 24, "text-anchor": "end"}, "at once"),
      svg("text", {x: LEFT - 6, y: microTop + 11, "text-anchor": "end"}, `up to ${number(largest)}`),
      ...leverRuns(read("levers"), x, leversTop),
      ...marks(read("oom_retries"), x, marksTop, "M0 0L4.5 9H-4.5Z", "mark-bad"),
      ...marks(read("handed_back"), x, marksTop + 11, "M0 -1L4 4L0 9L-4 4Z", "mark-moved"),
      svg("line", {class: "cursor", x1: 0, x2: 0, y1: 8, y2: bottom}));
    view.show(false);
  };
  whenSized(plot, view.draw);
  const go = (i) => {
    for (const other of laneViews) {
      other.cursor = clamp(i, 0, Math.max(0, lanes.count - 1));
      other.show(other === view);
    }
  };
  steer(plot, (dx) => go(view.cursor + dx),
    (px) => go(Math.floor(((px - LEFT) / Math.max(1, plot.clientWidth - LEFT - RIGHT)) * lanes.count)));
  view.element = html("section", {class: "panel"}, title, plot, readout);
  laneViews.push(view);
  return view;
}

function summaryOf(rank) {
  const count = lanes.count;
  return [
    number(rank), figure(lowest(lane("limit_bytes", rank).min, count), bytes),
    figure(lowest(lane("headroom_bytes", rank).min, count), bytes),
    figure(highest(lane("allocated_peak_bytes", rank).max, count), bytes),
    figure(highest(lane("reserved_peak_bytes", rank).max, count), bytes),
    figure(lowest(lane("micro_batch", rank).min, count), number),
    figure(highest(lane("micro_batch", rank).max, count), number),
    figure(sum(lane("oom_retries", rank).max, count), number), figure(sum(lane("handed_back", rank).max, count), number)
  ];
}

function summaryTable() {
  const heads = [
    "rank", "lowest limit", "lowest headroom", "allocated peak", "reserved peak", "smallest micro-batch",
    "largest micro-batch", "refused", "handed back"
  ];
  return behind("All ranks as a table", table("table-ranks", "Over all steps", heads, everyRank.map(summaryOf)));
}

function rankTable(rank) {
  const rows = [];
  for (let i = 0; i < lanes.count; i++) {
    rows.push([
      stepsOf(lanes, i).replace(/^steps? /, ""), ...RANK_FIELDS.flatMap(([, field, format]) => {
        const read = lane(field, rank);
        return read.exact ? [figure(read.max(i), format)] : [figure(read.min(i), format), figure(read.max(i), format)];
      })
    ]);
  }
  const heads = RANK_FIELDS.flatMap(
    ([name, field]) => (lane(field, rank).exact ? [name] : [`${name}, least`, `${name}, greatest`]));
  return table("table-rank", `Rank ${rank}`, ["steps", ...heads], rows);
}

function rankChooser(chosen) {
  const input = html("input", {type: "number", id: "rank", min: 0, max: ranks - 1, value: 0});
  input.addEventListener("input", () => {
    if (input.validity.valid && input.value !== "") {
      chosen(Number(input.value));
    }
  });
  return {
    input,
    element: html("span", {},
      html("label",
        { for: "rank"
        },
        "Rank "),
      input)
  };
}

// field, how several are told as one, format
const HEAT_FIELDS = [
  ["Lowest headroom", "headroom_bytes", "min", bytes],
  ["Headroom as a part of the limit", null, "min", (value) => `${(100 * value).toFixed(1)} %`],
  ["Allocated peak", "allocated_peak_bytes", "max", bytes], ["Reserved peak", "reserved_peak_bytes", "max", bytes],
  ["Limit", "limit_bytes", "min", bytes], ["Share", "share", "max", number],
  ["Micro-batch", "micro_batch", "min", number], ["Levers", "levers", "max", levers],
  ["Refused allocations", "oom_retries", "max", number], ["Samples handed back", "handed_back", "max", number]
];

// values[rank][column]
function heatValues([, field, which]) {
  return everyRank.map((rank) => {
    const read = lane(field ?? "headroom_bytes", rank), limit = lane("limit_bytes", rank);
    const one = (i) => (field !== null || read.min(i) === null ? read[which](i) : read.min(i) / limit.min(i));
    return Array.from({length: lanes.count}, (_, i) => one(i));
  });
}

function mix(low, high, part) {
  const channels = (text) => [1, 3, 5].map((i) => parseInt(text.slice(i, i + 2), 16));
  const [a, b] = [channels(low), channels(high)];
  return `rgb(${a.map((value, i) => Math.round(value + (b[i] - value) * part)).join(" ")})`;
}

function quantiles(values) {
  const cut = (sorted, part) => sorted[Math.round(part * (sorted.length - 1))] ?? null;
  const columns = Array.from({length: lanes.count},
    (_, i) => values.map((row) => row[i]).filter((value) => value !== null).sort((a, b) => a - b));
  const line = (part) => {
    const read = (i) => cut(columns[i], part);
    return {min: read, max: read, mean: read, exact: true};
  };
  return [
    ["lowest", 0, "third"], ["10 % of ranks below", 0.1, "second"], ["median", 0.5, "first"],
    ["90 % of ranks below", 0.9, "fourth"], ["highest", 1, "limit"]
  ].map(([name, part, style]) => ({name, style, read: line(part)}));
}

function heat(chosen) {
  const canvas = html("canvas", {
    class: "plot",
    tabindex: "0",
    role: "application",
    "aria-roledescription": "heat map",
    "aria-label": "Ranks over steps. Left and right move along the steps, up and down along the ranks."
  });
  const readout = html("div", {class: "readout", "aria-live": "polite"}), key = html("div", {class: "legend"});
  const select = html("select", {id: "field"}, ...HEAT_FIELDS.map(([name], i) => html("option", {value: i}, name)));
  const folded = Math.ceil(ranks / 240), rows = Math.ceil(ranks / folded), height = clamp(rows * 12, 160, 480);
  const spread = html("div", {}), note = html("p", {});
  const view = {rank: 0, column: Math.max(0, lanes.count - 1)};
  let field, values;
  const draw = () => {
    const width = canvas.clientWidth, dots = devicePixelRatio || 1, context = canvas.getContext("2d");
    let low = Infinity, high = -Infinity;
    values.flat().filter((value) => value !== null).forEach((value) => {
      low = Math.min(low, value);
      high = Math.max(high, value);
    });
    canvas.width = width * dots;
    canvas.height = (height + 22) * dots;
    canvas.style.height = `${height + 22}px`;
    context.scale(dots, dots);
    context.font = "11.5px system-ui, sans-serif";
    const x = scale([0, lanes.count], [LEFT, width - RIGHT]), y = scale([0, rows], [0, height]);
    const [from, to] = [colour("heat-low"), colour("heat-high")];
    for (let row = 0; row < rows; row++) {
      for (let i = 0; i < lanes.count; i++) {
        const several =
          values.slice(row * folded, (row + 1) * folded).map((one) => one[i]).filter((value) => value !== null);
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
    context.strokeRect(x(view.column) - 1, y(Math.floor(view.rank / folded)) - 1,
      x(view.column + 1) - x(view.column) + 2, Math.max(4, y(1) - y(0)) + 2);
    const bar = svg("svg", {width: 120, height: 12, "aria-hidden": "true"},
      ...Array.from(
        {length: 24}, (_, i) => svg("rect", {x: i * 5, y: 0, width: 5.5, height: 12, fill: mix(from, to, i / 23)})));
    key.replaceChildren(
      html("span", {}, low <= high ? `${field[3](low)} ` : "", bar, low <= high ? field[3](high) : ""));
  };
  const show = () => {
    draw();
    readout.textContent = rankText(view.rank, view.column);
  };
  const choose = () => {
    field = HEAT_FIELDS[Number(select.value)];
    values = heatValues(field);
    note.textContent = folded > 1 ?
      `A row is ${folded} ranks, of which the one with the ${field[2] === "min" ? "least" : "most"} counts.` :
      "A row is a rank.";
    spread.replaceChildren(lineChart({
      id: "spread",
      title: `${field[0]}, over the ranks`,
      columns: lanes,
      format: field[3],
      series: quantiles(values),
      height: 170
    }));
    draw();
  };
  view.go = (rank, column) => {
    view.rank = clamp(rank, 0, ranks - 1);
    view.column = clamp(column, 0, Math.max(0, lanes.count - 1));
    show();
  };
  select.addEventListener("change", choose);
  whenSized(canvas, () => values && draw());
  steer(canvas,
    (dx, dy) => {
      view.go(view.rank + dy, view.column + dx);
      chosen(view.rank);
    },
    (px, py, pressed) => {
      if (pressed) {
        view.go(Math.floor((py / height) * rows) * folded,
          Math.floor(((px - LEFT) / (canvas.clientWidth - LEFT - RIGHT)) * lanes.count));
        chosen(view.rank);
      }
    });
  view.element = html("div", {},
    html("section", {class: "panel"},
      html("div", {class: "heading"}, html("span", {}, html("label", {"for": "field"}, "Show "), select), key), canvas,
      readout, note),
    spread);
  requestAnimationFrame(choose);
  return view;
}

function rankSection() {
  const most =
    everyRank.reduce((found, rank) => Math.max(found, highest(lane("limit_bytes", rank).max, lanes.count) ?? 0,
                       highest(lane("reserved_peak_bytes", rank).max, lanes.count) ?? 0),
      1) *
    1.04;
  const parts = [
    html("h2", {id: "ranks"}, "Ranks"),
    html("p", {}, "What each rank may hold, what it held at the peak of a step, and how it cut its share.")
  ];
  const holder = html("div", {}, rankTable(0));
  if (ranks <= LANES_SHOWN) {
    const chooser = rankChooser((rank) => holder.replaceChildren(rankTable(rank)));
    parts.push(legend(LANE_LEGEND), ...everyRank.map((rank) => rankLane(rank, most).element),
      html("section", {class: "panel"}, summaryTable(),
        behind("The steps of one rank as a table", chooser.element, holder)));
    return parts;
  }
  const view = rankLane(0, most);
  const show = (rank) => {
    view.rank = rank;
    view.draw();
    holder.replaceChildren(rankTable(rank));
  };
  const map = heat((rank) => {
    chooser.input.value = rank;
    show(rank);
  });
  const chooser = rankChooser((rank) => {
    map.go(rank, map.column);
    show(rank);
  });
  view.element.append(behind("This rank's steps as a table", holder));
  parts.push(map.element, html("div", {class: "controls"}, chooser.element, legend(LANE_LEGEND)), view.element,
    html("section", {class: "panel"}, summaryTable()));
  return parts;
}
