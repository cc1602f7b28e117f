// SPDX-License-Identifier: Apache-2.0
//
// Memory within a micro-step: what lives where on the device, operation by operation.

const CATEGORIES = {
  samples: "samples",
  kept: "activations kept for the backward pass",
  forward: "of the forward pass alone",
  backward: "of the backward pass"
};

function pattern(context, name) {
  const tile = document.createElement("canvas"), brush = tile.getContext("2d");
  tile.width = tile.height = 8;
  brush.fillStyle = colour(name);
  brush.fillRect(0, 0, 8, 8);
  brush.strokeStyle = colour("surface");
  brush.globalAlpha = 0.35;
  const strokes = {
    forward: [[0, 8, 8, 0], [-2, 2, 2, -2], [6, 10, 10, 6]],
    backward: [[0, 0, 8, 8], [-2, 6, 2, 10], [6, -2, 10, 2]],
    samples: [[0, 4, 8, 4]]
  };
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

const operationName = (memory, i) =>
  `operation ${i} of ${memory.operations.length}, ${memory.operations[i][0]} ${memory.operations[i][1]}`.trim();

const LAYOUT_HEIGHT = 340, LAYOUT_TOP = 12;

function drawAddresses(context, {width, y}, memory) {
  context.textAlign = "right";
  for (const tick of ticks(0, memory.block_bytes, 6, true)) {
    context.fillStyle = colour("grid");
    context.fillRect(LEFT, y(tick), width - LEFT - RIGHT, 1);
    context.fillStyle = colour("muted");
    context.fillText(roundBytes(tick), LEFT - 6, y(tick) + 4);
  }
}

// left, top, width, height
function boxOf({x, y}, {first, last, offset, bytes: size}) {
  return [x(first), y(offset + size), x(last + 1) - x(first), y(offset) - y(offset + size)];
}

// Where there is room for it.
function drawName(context, tensor, [left, top, width, height]) {
  const wide = context.measureText(tensor.name).width;
  if (height > 15 && width > wide + 10) {
    context.fillStyle = colour(tensor.category);
    context.fillRect(left + 2, top + height / 2 - 8, wide + 6, 16);
    context.fillStyle = colour("on");
    context.fillText(tensor.name, left + 5, top + height / 2 + 4);
  }
}

function drawTensors(context, frame, memory) {
  const fills = Object.fromEntries(Object.keys(CATEGORIES).map((name) => [name, pattern(context, name)]));
  context.strokeStyle = colour("surface");
  context.lineWidth = 0.7;
  context.textAlign = "left";
  for (const tensor of memory.tensors) {
    const box = boxOf(frame, tensor);
    context.fillStyle = fills[tensor.category];
    context.fillRect(...box);
    if (box[3] > 3) {
      context.strokeRect(...box);
    }
    drawName(context, tensor, box);
  }
}

function drawPasses(context, {x}, memory) {
  const middle = x(memory.forward_count);
  context.fillStyle = colour("ink");
  context.fillRect(middle, LAYOUT_TOP, 1, LAYOUT_HEIGHT - LAYOUT_TOP);
  context.textAlign = "right";
  context.fillText("forward ", middle, LAYOUT_HEIGHT + 16);
  context.textAlign = "left";
  context.fillText(" backward", middle, LAYOUT_HEIGHT + 16);
}

function drawChoice(context, frame, operation, chosen) {
  const {x} = frame;
  context.strokeStyle = colour("ink");
  context.setLineDash([2, 2]);
  context.strokeRect(x(operation), LAYOUT_TOP, Math.max(1, x(1) - x(0)), LAYOUT_HEIGHT - LAYOUT_TOP);
  context.setLineDash([]);
  if (chosen !== null) {
    context.lineWidth = 2.5;
    context.strokeRect(...boxOf(frame, chosen));
  }
}

function drawLayout(canvas, memory, operation, chosen) {
  const width = canvas.clientWidth, context = brush(canvas, LAYOUT_HEIGHT + 22);
  const frame = {
    width,
    x: scale([0, memory.operations.length], [LEFT, width - RIGHT]),
    y: scale([0, memory.block_bytes], [LAYOUT_HEIGHT, LAYOUT_TOP])
  };
  drawAddresses(context, frame, memory);
  drawTensors(context, frame, memory);
  drawPasses(context, frame, memory);
  drawChoice(context, frame, operation, chosen);
}

function layoutText(memory, operation, chosen) {
  const live = liveAt(memory, operation);
  const text = `${operationName(memory, operation)}: ${bytes(together(live))} in ${live.length} tensors.`;
  if (chosen === null) {
    return text;
  }
  const {name, category, first, last} = chosen;
  return `${text} ${name}: ${bytes(chosen.bytes)}, ${CATEGORIES[category]}, operations ${first} to ${last}.`;
}

// The cursor is an operation, and maybe a tensor that lives there.
function layoutChart(memory, peak) {
  const label =
    "Tensors of a micro-step by operation and address. Arrow keys move along the operations and among tensors.";
  const canvas = html("canvas", {...PLOT, "aria-label": label}), readout = readoutElement();
  const last = memory.operations.length - 1;
  let operation = peak, chosen = null;
  const live = () => liveAt(memory, operation).sort((a, b) => b.offset - a.offset);
  const show = () => {
    readout.textContent = layoutText(memory, operation, chosen);
    drawLayout(canvas, memory, operation, chosen);
  };
  const move = (dx, dy) => {
    operation = clamp(operation + dx, 0, last);
    const there = live(), now = there.indexOf(chosen);
    const next = now < 0 ? 0 : clamp(now + dy, 0, there.length - 1);
    chosen = now < 0 && dy === 0 ? null : there[next] ?? null;
    show();
  };
  const point = (x, y) => {
    const address = ((LAYOUT_HEIGHT - y) / (LAYOUT_HEIGHT - LAYOUT_TOP)) * memory.block_bytes;
    operation = clamp(columnUnder(canvas, x, last + 1), 0, last);
    chosen = live().find(({offset, bytes: size}) => offset <= address && address < offset + size) ?? null;
    show();
  };
  steer(canvas, move, point);
  whenSized(canvas, show);
  return [canvas, readout];
}

const STROKES = {
  samples: "M0 6H14",
  forward: "M0 12L14 0",
  backward: "M0 0L14 12"
};
const swatch = (name) => svg("svg", {width: 14, height: 12, "aria-hidden": "true"},
  svg("rect", {width: 14, height: 12, rx: 2, fill: `var(--${name})`}),
  svg("path", {d: STROKES[name] ?? "", stroke: "var(--surface)"}));

// What rests and the micro-step's block, to one scale.
function deviceBar(memory) {
  const parts = [
    ...Object.entries(memory.resting).filter(([, size]) => size > 0).map(([name, size]) => [name, size, "resting"]),
    ["micro-step", memory.block_bytes, "kept"]
  ];
  const all = parts.reduce((so, [, size]) => so + size, 0);
  const plot = svg("svg", {
    class: "plot",
    height: 52,
    role: "img",
    "aria-label": `On the device: ${parts.map(([name, size]) => `${name} ${bytes(size)}`).join(", ")}`
  });
  whenSized(plot, (width) => {
    let left = 0;
    plot.replaceChildren();
    for (const [name, size, fill] of parts) {
      const wide = (size / all) * width;
      plot.append(
        svg("rect", {x: left, y: 0, width: Math.max(1, wide - 2), height: 26, rx: 3, fill: `var(--${fill})`}));
      if (wide > 6.5 * Math.max(name.length, bytes(size).length)) {
        plot.append(
          svg("text", {class: "strong", x: left + 2, y: 40}, name), svg("text", {x: left + 2, y: 52}, bytes(size)));
      }
      left += wide;
    }
  });
  return {plot, all, parts};
}

function memorySection() {
  const memory = report.memory;
  if (memory.why !== undefined) {
    return [html("h2", {id: "memory"}, "Memory within a step"), html("p", {}, `Not priced: ${memory.why}`)];
  }
  const peak = peakOperation(memory), there = liveAt(memory, peak).sort((a, b) => b.bytes - a.bytes);
  const bar = deviceBar(memory), [canvas, readout] = layoutChart(memory, peak);
  const about = `A micro-batch of ${number(memory.micro_batch)}` +
    (memory.length > 1 ? ` with ${number(memory.length)} targets a sample` : "") +
    `, levers ${memory.levers}, as the configuration is priced: ` +
    `${bytes(bar.all)} in all.` + (memory.sharded ? " The optimizer's state is an equal shard." : "");
  const groups = Object.entries(CATEGORIES).map(([name,
    text]) => [text, figure(together(there.filter((tensor) => tensor.category === name)), bytes)]);
  const tensors = there.map((tensor) => [tensor.name, figure(tensor.bytes, bytes), CATEGORIES[tensor.category],
                              figure(tensor.first, number), figure(tensor.last, number)]);
  const resting = bar.parts.map(([name, size]) => [name, figure(size, bytes)]);
  return [
    html("h2", {id: "memory"}, "Memory within a step"),
    html("p", {}, about),
    html("section", {class: "panel"}, html("h3", {}, "On the device"), bar.plot,
      behind("As a table", table("table-resting", "On the device", ["what", "bytes"], resting))),
    html("section", {class: "panel"},
      html("div", {class: "heading"}, html("h3", {}, "Tensors of a micro-step, by operation and address"),
        html("div", {class: "legend"},
          ...Object.entries(CATEGORIES).map(([name, text]) => html("span", {}, swatch(name), ` ${text}`)))),
      canvas, readout,
      behind("The peak as a table",
        table("table-categories", `At the peak, ${operationName(memory, peak)}`, ["what for", "bytes"], groups),
        table("table-tensors", "Tensors that live there",
          ["tensor", "bytes", "what for", "from operation", "to operation"], tensors))),
  ];
}
