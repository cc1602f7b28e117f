// SPDX-License-Identifier: Apache-2.0
//
// The run as a whole: its state, its figures, what a doctor found, and training over the steps.

function environment(key) {
  const line = report.run.environment.split("\n").find((text) => text.startsWith(`${key} `));
  return line === undefined ? null : line.slice(key.length + 1);
}

// status of an end -> what it says
const ENDS = {
  0: ["✓ done", "good"],
  1: ["✗ failed", "bad"],
  2: ["✗ refused", "bad"],
  3: ["✗ out of memory", "bad"],
  4: ["✗ diverged", "bad"],
  75: ["■ stopped at a checkpoint", "wait"]
};

function state() {
  const end = report.run.events.findLast((event) => event.kind === "end");
  return report.run.ended ? ENDS[end.status] ?? [`✗ ended with code ${end.status}`, "bad"] :
                            ["… under way, or killed", "wait"];
}

function tile(name, value, note) {
  return html("dl", {class: "tile"}, html("dt", {}, name), html("dd", {}, value),
    note ? html("dd", {class: "note"}, note) : null);
}

const steps = report.steps, lanes = report.lanes;
const of = (name) => reader(steps.series[name]);
const lane = (field, rank) => reader(lanes.series[field][rank]);
const ranks = report.run.ranks;
const everyRank = Array.from({length: ranks}, (_, rank) => rank);

function lowestHeadroom() {
  let found = {rank: 0, value: null};
  for (const rank of everyRank) {
    const value = lowest(lane("headroom_bytes", rank).min, lanes.count);
    if (value !== null && (found.value === null || value < found.value)) {
      found = {rank, value};
    }
  }
  return found;
}

const overRanks = (field) => everyRank.reduce((all, rank) => all + sum(lane(field, rank).max, lanes.count), 0);

// A sample of a language model has several targets.
const RATE = report.run.tokens === report.run.samples ?
  {field: "samples_per_s", unit: "samples/s", title: "Samples per second"} :
  {field: "tokens_per_s", unit: "tokens/s", title: "Tokens per second"};

function medianRate() {
  const rate = of(RATE.field), every = Array.from({length: steps.count}, (_, i) => rate.mean(i));
  const sorted = every.filter((value) => value !== null).sort((a, b) => a - b);
  const over = steps.stride === 1 ? "steps" : `means of ${steps.stride} steps`;
  return tile("Throughput", number(Math.round(sorted[sorted.length >> 1] ?? 0)), `${RATE.unit}, median over ${over}`);
}

function newestEvaluation() {
  const {series, count} = report.evaluations;
  const loss = reader(series.loss).mean(count - 1), accuracy = reader(series.accuracy).mean(count - 1);
  return tile("Validation loss", number(loss), accuracy === null ? "" : `accuracy ${(100 * accuracy).toFixed(2)} %`);
}

function stepTiles(newest) {
  const headroom = lowestHeadroom(), refused = overRanks("oom_retries"), moved = overRanks("handed_back");
  return [
    tile("Loss", number(newest.loss), `of step ${number(newest.step)}`),
    ...(report.evaluations.count > 0 ? [newestEvaluation()] : []), medianRate(),
    tile("Lowest headroom", bytes(headroom.value), `on rank ${headroom.rank}`),
    tile("Refused", number(refused), refused === 0 ? "no allocation" : "allocations, done in pieces"),
    tile("Handed back", number(moved), moved === 0 ? "no sample" : "samples that others did")
  ];
}

function tiles() {
  const {newest, events} = report.run;
  const seconds = events.reduce((all, event) => all + (event.seconds ?? 0), 0);
  const first = tile("Steps", number(report.run.steps), seconds > 0 ? `in ${duration(seconds)}` : "");
  return html("div", {class: "tiles"}, first, ...(newest === null ? [] : stepTiles(newest)));
}

function header() {
  const [text, kind] = state();
  const parts = [
    `${number(ranks)} ${ranks === 1 ? "rank" : "ranks"}`, environment("host") && `host ${environment("host")}`,
    environment("started") && `started ${environment("started")}`,
    environment("headroom") && `headroom ${environment("headroom").split(" ")[0]}`
  ];
  document.title = `${report.run.name} – Headroom`;
  document.getElementById("top").append(
    html("div", {class: "title"}, html("h1", {}, report.run.name), html("span", {class: `state ${kind}`}, text)),
    html("div", {class: "about"}, parts.filter(Boolean).join(" · ")));
}

function findings() {
  const entry = (finding) => {
    const pairs = [
      ["Figure", finding.figure], ["Threshold", finding.threshold], ["Where", finding.where],
      ["What to do", finding.fix]
    ];
    return html("li", {}, html("h3", {}, finding.cause),
      html("dl", {}, ...pairs.flatMap(([name, text]) => [html("dt", {}, name), html("dd", {}, text)])));
  };
  return [html("h2", {id: "findings"}, "Findings"), html("ul", {class: "findings"}, ...report.findings.map(entry))];
}

function validationPoints() {
  const {series, count} = report.evaluations, loss = reader(series.loss), accuracy = reader(series.accuracy);
  const also = [{name: "loss", read: loss, format: number}, {name: "accuracy", read: accuracy, format: number}];
  return count === 0 ? null : {columns: report.evaluations, read: loss, name: "validation loss", also};
}

const line = (name, style, field) => ({name, style, read: of(field)});

function training() {
  const time = {columns: steps, format: milliseconds, from: 0};
  const charts = [
    {
      id: "loss",
      title: "Loss in nats",
      columns: steps,
      points: validationPoints(),
      format: number,
      series: [line("training loss", "first", "loss")]
    },
    {
      id: "throughput",
      title: RATE.title,
      columns: steps,
      format: number,
      from: 0,
      series: [line(RATE.unit, "first", RATE.field)]
    },
    {
      ...time,
      id: "time",
      title: "Time of a step",
      series: [line("step", "first", "step_ms"), line("predicted", "second", "predicted_ms")]
    },
    {
      ...time,
      id: "waits",
      title: "Of it, waiting and coordinating",
      series: [
        line("all-reduce", "first", "comm_ms"), line("data", "second", "data_wait_ms"),
        line("coordination", "third", "coordination_ms")
      ]
    }
  ];
  return [html("h2", {id: "training"}, "Training"), html("div", {class: "grid"}, ...charts.map(lineChart))];
}
