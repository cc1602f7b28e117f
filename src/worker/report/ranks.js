// SPDX-License-Identifier: Apache-2.0
//
// Each rank over the steps: a lane for each of few, a heat map and quantiles of many.

const LANES_SHOWN = 16;  // more ranks are folded

const mostOf = (field) => everyRank.map((rank) => highest(lane(field, rank).max, lanes.count) ?? 0);
const anywhere = (field) => mostOf(field).some((value) => value > 0);

// The least that the lanes of all ranks have room for.
const MOST_BYTES =
  1.04 * ["limit_bytes", "reserved_peak_bytes", "others_bytes"].flatMap(mostOf).reduce((a, b) => Math.max(a, b), 1);

// Told only where some rank has any.
const OCCASIONAL = [
  {name: "held by others", field: "others_bytes", format: bytes, style: "others"},
  {name: "kept after the step", field: "kept_bytes", format: bytes, style: "kept"},
  {name: "gradients kept", field: "kept_gradients_bytes", format: bytes, style: "kept-gradients"},
  {name: "fragmented", field: "fragmented_bytes", format: bytes, style: "fragmented"},
  {name: "waiting for data", field: "data_wait_ms", format: milliseconds, style: "waiting"},
  {name: "recomputing would save", field: "recompute_gain", format: percent}
].filter(({field}) => anywhere(field));
const WAITING = OCCASIONAL.filter(({field}) => field === "data_wait_ms");

// strained: which of several values counts.
const MEMORY_LINES = [
  {name: "limit", style: "limit", field: "limit_bytes", strained: "min"},
  {name: "allocated peak", style: "first", field: "allocated_peak_bytes", strained: "max"},
  {name: "headroom", style: "third", field: "headroom_bytes", strained: "min"}
];

// Drawn where a line would not lie at the bottom all the time.
const isVisible = (rank, {field}) => highest(lane(field, rank).max, lanes.count) > MOST_BYTES / 100;
const OCCASIONAL_LINES =
  OCCASIONAL.filter((one) => one.format === bytes && everyRank.some((rank) => isVisible(rank, one)))
    .map((one) => ({...one, strained: "max"}));
const LANE_LEGEND = [
  ...MEMORY_LINES, ...OCCASIONAL_LINES, {name: "reserved peak", style: "fill-held", as: "fill"},
  {name: "micro-batch", style: "second"}, ...WAITING, {name: "levers", style: "lever", as: "fill"},
  {name: "refused", style: "mark-bad", as: "up"}, {name: "handed back", style: "mark-moved", as: "diamond"}
];
const RANK_FIELDS = [
  ["headroom", "headroom_bytes", bytes], ["allocated peak", "allocated_peak_bytes", bytes],
  ["reserved peak", "reserved_peak_bytes", bytes], ["limit", "limit_bytes", bytes], ["share", "share", number],
  ["micro-batch", "micro_batch", number], ["levers", "levers", levers], ["refused", "oom_retries", number],
  ["handed back", "handed_back", number], ...OCCASIONAL.map(({name, field, format}) => [name, field, format])
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

// From top to bottom: memory, micro-batch, waiting, levers, marks.
const LANE_TOP = 8, LANE_MEMORY = 118, LANE_MICRO = [158, 130], LANE_WAITING = [198, 170];
const LANE_LEVERS = WAITING.length > 0 ? 204 : 164;
const LANE_MARKS = LANE_LEVERS + (anywhere("levers") ? 16 : 0);
const LANE_BOTTOM = LANE_MARKS + (anywhere("oom_retries") || anywhere("handed_back") ? 22 : 0);

function memoryLine(frame, rank, {field, style, strained}) {
  const {place, level} = frame, read = lane(field, rank), count = lanes.count;
  const line = svg("path", {class: `line ${style}`, d: stairs(count, place, level(read[strained]))});
  if (read.exact) {
    return [line];
  }
  return [svg("path", {class: "fill-band", d: band(count, place, level(read.min), level(read.max))}), line];
}

function reservedArea({place, level, y}, rank) {
  const read = lane("reserved_peak_bytes", rank);
  return svg("path", {class: "fill-held", d: band(lanes.count, place, level(read.max, () => y(0)), level(read.max))});
}

// A line below the memory, from 0 to the rank's most, which is told in words.
function stripe({place, level}, rank, {field, style, heights, words}) {
  const read = lane(field, rank), most = highest(read.max, lanes.count) ?? 0;
  const line = stairs(lanes.count, place, level(read.max, scale([0, most || 1], heights)));
  const text = (y, told) => svg("text", {x: LEFT - 6, y, "text-anchor": "end"}, told);
  const [first, second] = words(most);
  return [svg("path", {class: `line ${style}`, d: line}), text(heights[1] + 11, first), text(heights[1] + 24, second)];
}

const STRIPES = [
  {field: "micro_batch", style: "second", heights: LANE_MICRO, words: (most) => [`up to ${number(most)}`, "at once"]},
  ...WAITING.map((one) => ({...one, heights: LANE_WAITING, words: (most) => [milliseconds(most), "waiting"]}))
];

function drawLane(frame, rank) {
  const {place} = frame, occasional = OCCASIONAL_LINES.filter((line) => isVisible(rank, line));
  return [
    axes(frame, LANE_BOTTOM, bytes), reservedArea(frame, rank),
    ...[...MEMORY_LINES, ...occasional].flatMap((line) => memoryLine(frame, rank, line)),
    ...STRIPES.flatMap((one) => stripe(frame, rank, one)), ...leverRuns(lane("levers", rank), place, LANE_LEVERS),
    ...marks(lane("oom_retries", rank), place, LANE_MARKS, "M0 0L4.5 9H-4.5Z", "mark-bad"),
    ...marks(lane("handed_back", rank), place, LANE_MARKS + 11, "M0 -1L4 4L0 9L-4 4Z", "mark-moved"),
    cursorLine(LANE_TOP, LANE_BOTTOM)
  ];
}

// Another rank is shown by setting `rank` and drawing again.
function rankLane(rank) {
  const view = {rank, cursor: Math.max(0, lanes.count - 1)};
  const plot = svg("svg", {...PLOT, height: LANE_BOTTOM + 20}), readout = readoutElement(), title = html("h3", {});
  let drawn = null;
  view.show = (speaks) => {
    readout.textContent = speaks ? rankText(view.rank, view.cursor) : "";
    placeCursor(plot, drawn, view.cursor);
  };
  view.draw = () => {
    drawn = frame(plot.clientWidth, LANE_MEMORY, LANE_TOP, lanes, 0, MOST_BYTES);
    title.textContent = `Rank ${view.rank}`;
    plot.setAttribute(
      "aria-label", `Memory, micro-batch and levers of rank ${view.rank}. Arrow keys move along the steps.`);
    plot.replaceChildren(...drawLane(drawn, view.rank));
    view.show(false);
  };
  whenSized(plot, view.draw);
  const go = (i) => {
    for (const other of laneViews) {
      other.cursor = clamp(i, 0, Math.max(0, lanes.count - 1));
      other.show(other === view);
    }
  };
  steer(plot, (dx) => go(view.cursor + dx), (x) => go(columnUnder(plot, x, lanes.count)));
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
    figure(sum(lane("oom_retries", rank).max, count), number),
    figure(sum(lane("handed_back", rank).max, count), number),
    ...OCCASIONAL.map(({field, format}) => figure(highest(lane(field, rank).max, count), format))
  ];
}

function summaryTable() {
  const heads = [
    "rank", "lowest limit", "lowest headroom", "allocated peak", "reserved peak", "smallest micro-batch",
    "largest micro-batch", "refused", "handed back", ...OCCASIONAL.map(({name}) => `most ${name}`)
  ];
  return behind("All ranks as a table", table("table-ranks", "Over all steps", heads, everyRank.map(summaryOf)));
}

function rankTable(rank) {
  const rows = [];
  for (let i = 0; i < lanes.count; i++) {
    rows.push([
      stepNumbers(lanes, i), ...RANK_FIELDS.flatMap(([, field, format]) => {
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
  return {input, element: html("span", {}, html("label", {"for": "rank"}, "Rank "), input)};
}

// strained: which of several values counts. `Headroom as a part of the limit` has no field of its own.
const HEAT_FIELDS = [
  ["Lowest headroom", "headroom_bytes", "min", bytes],
  ["Headroom as a part of the limit", null, "min", (value) => `${(100 * value).toFixed(1)} %`],
  ["Allocated peak", "allocated_peak_bytes", "max", bytes], ["Reserved peak", "reserved_peak_bytes", "max", bytes],
  ["Limit", "limit_bytes", "min", bytes], ["Share", "share", "max", number],
  ["Micro-batch", "micro_batch", "min", number], ["Levers", "levers", "max", levers],
  ["Refused allocations", "oom_retries", "max", number], ["Samples handed back", "handed_back", "max", number],
  ...OCCASIONAL.map(({name, field, format}) => [name[0].toUpperCase() + name.slice(1), field, "max", format])
].map(([name, field, strained, format]) => ({name, field, strained, format}));

// values[rank][column]
function heatValues({field, strained}) {
  return everyRank.map((rank) => {
    const read = lane(field ?? "headroom_bytes", rank), limit = lane("limit_bytes", rank);
    const part = (i) => (read.min(i) === null ? null : read.min(i) / limit.min(i));
    return Array.from({length: lanes.count}, (_, i) => (field === null ? part(i) : read[strained](i)));
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

// Of how many ranks a row of the map is, how many rows there are, and their height together.
const FOLDED = Math.ceil(ranks / 240), HEAT_ROWS = Math.ceil(ranks / FOLDED);
const HEAT_HEIGHT = clamp(HEAT_ROWS * 12, 160, 480);

// The values of a field, folded to rows, and what they range over.
function heatMap(field) {
  const values = heatValues(field), which = Math[field.strained], rows = [];
  for (let rank = 0; rank < ranks; rank += FOLDED) {
    const several = values.slice(rank, rank + FOLDED);
    rows.push(Array.from({length: lanes.count}, (_, i) => {
      const there = several.map((one) => one[i]).filter((value) => value !== null);
      return there.length === 0 ? null : which(...there);
    }));
  }
  const all = rows.flat().filter((value) => value !== null);
  const [low, high] = [Math.min, Math.max].map((better) => all.reduce((a, b) => better(a, b), all[0] ?? null));
  return {field, values, rows, low, high};
}

function drawCells(context, {rows, low, high}, x, y) {
  const [from, to] = [colour("heat-low"), colour("heat-high")];
  rows.forEach((row, number) => row.forEach((value, i) => {
    if (value !== null) {
      context.fillStyle = mix(from, to, high > low ? (value - low) / (high - low) : 0);
      context.fillRect(x(i), y(number), x(i + 1) - x(i) + 0.5, y(number + 1) - y(number) + 0.5);
    }
  }));
}

function drawHeatAxes(context, width, x, y) {
  context.fillStyle = colour("muted");
  context.textAlign = "right";
  for (const tick of ticks(0, ranks - 1, 6).filter(Number.isInteger)) {
    context.fillText(`rank ${tick}`, LEFT - 6, clamp(y(tick / FOLDED) + 8, 9, HEAT_HEIGHT));
  }
  context.textAlign = "center";
  for (const tick of stepTicks(width, lanes.count * lanes.stride)) {
    context.fillText(whole.format(tick), x(tick / lanes.stride), HEAT_HEIGHT + 16);
  }
}

function drawHeat(canvas, map, {rank, column}) {
  const width = canvas.clientWidth, context = brush(canvas, HEAT_HEIGHT + 22);
  const x = scale([0, lanes.count], [LEFT, width - RIGHT]), y = scale([0, HEAT_ROWS], [0, HEAT_HEIGHT]);
  drawCells(context, map, x, y);
  drawHeatAxes(context, width, x, y);
  context.strokeStyle = colour("bad");
  context.lineWidth = 2;
  context.strokeRect(x(column) - 1, y(Math.floor(rank / FOLDED)) - 1, x(1) - x(0) + 2, Math.max(4, y(1) - y(0)) + 2);
}

function heatKey({field, low, high}) {
  const [from, to] = [colour("heat-low"), colour("heat-high")];
  const piece = (i) => svg("rect", {x: i * 5, y: 0, width: 5.5, height: 12, fill: mix(from, to, i / 23)});
  const bar =
    svg("svg", {width: 120, height: 12, "aria-hidden": "true"}, ...Array.from({length: 24}, (_, i) => piece(i)));
  return html("span", {}, `${field.format(low)} `, bar, field.format(high));
}

function spreadChart({field, values}) {
  const title = `${field.name}, over the ranks`;
  return lineChart({id: "spread", title, columns: lanes, format: field.format, series: quantiles(values), height: 170});
}

function foldedText(field) {
  const which = field.strained === "min" ? "least" : "most";
  return FOLDED > 1 ? `A row is ${FOLDED} ranks, of which the one with the ${which} counts.` : "A row is a rank.";
}

// Tells `chosen` of the rank that was chosen in it.
function heat(chosen) {
  const label = "Ranks over steps. Left and right move along the steps, up and down along the ranks.";
  const canvas = html("canvas", {...PLOT, "aria-roledescription": "heat map", "aria-label": label});
  const readout = readoutElement(), key = html("div", {class: "legend"}), note = html("p", {}),
        spread = html("div", {});
  const select = html("select", {id: "field"}, ...HEAT_FIELDS.map(({name}, i) => html("option", {value: i}, name)));
  const view = {rank: 0, column: Math.max(0, lanes.count - 1)};
  let map = heatMap(HEAT_FIELDS[0]);
  const draw = () => {
    drawHeat(canvas, map, view);
    key.replaceChildren(heatKey(map));
  };
  const choose = () => {
    map = heatMap(HEAT_FIELDS[Number(select.value)]);
    note.textContent = foldedText(map.field);
    spread.replaceChildren(spreadChart(map));
    draw();
  };
  view.go = (rank, column) => {
    view.rank = clamp(rank, 0, ranks - 1);
    view.column = clamp(column, 0, Math.max(0, lanes.count - 1));
    readout.textContent = rankText(view.rank, view.column);
    draw();
  };
  const choosing = (rank, column) => {
    view.go(rank, column);
    chosen(view.rank);
  };
  select.addEventListener("change", choose);
  whenSized(canvas, draw);
  steer(canvas, (dx, dy) => choosing(view.rank + dy, view.column + dx), (x, y, pressed) => {
    if (pressed) {
      choosing(Math.floor((y / HEAT_HEIGHT) * HEAT_ROWS) * FOLDED, columnUnder(canvas, x, lanes.count));
    }
  });
  note.textContent = foldedText(map.field);
  spread.append(spreadChart(map));
  const heading =
    html("div", {class: "heading"}, html("span", {}, html("label", {"for": "field"}, "Show "), select), key);
  view.element = html("div", {}, html("section", {class: "panel"}, heading, canvas, readout, note), spread);
  return view;
}

function fewRanks() {
  const holder = html("div", {}, rankTable(0));
  const chooser = rankChooser((rank) => holder.replaceChildren(rankTable(rank)));
  return [
    legend(LANE_LEGEND), ...everyRank.map((rank) => rankLane(rank).element),
    html(
      "section", {class: "panel"}, summaryTable(), behind("The steps of one rank as a table", chooser.element, holder))
  ];
}

function manyRanks() {
  const view = rankLane(0), holder = html("div", {}, rankTable(0));
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
  return [
    map.element, html("div", {class: "controls"}, chooser.element, legend(LANE_LEGEND)), view.element,
    html("section", {class: "panel"}, summaryTable())
  ];
}

function rankSection() {
  const about = "What each rank may hold, what it held at the peak of a step, and how it cut its share.";
  return [
    html("h2", {id: "ranks"}, "Ranks"), html("p", {}, about), ...(ranks <= LANES_SHOWN ? fewRanks() : manyRanks())
  ];
}
