// SPDX-License-Identifier: Apache-2.0
//
// The run as a whole: its state, its figures, what a doctor found, and training over the steps.

// What each process of the run has told, the newest last.
function environment(key) {
  const lines = report.run.environment.split("\n").filter((text) => text.startsWith(`${key} `));
  return lines.map((text) => text.slice(key.length + 1));
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
  return tile("Validation loss", nats(loss), accuracy === null ? "" : `accuracy ${(100 * accuracy).toFixed(2)} %`);
}

function stepTiles(newest) {
  const headroom = lowestHeadroom(), refused = overRanks("oom_retries"), moved = overRanks("handed_back");
  return [
    tile("Loss", nats(newest.loss), `of step ${number(newest.step)}`),
    ...(report.evaluations.count > 0 ? [newestEvaluation()] : []), medianRate(),
    tile("Lowest headroom", bytes(headroom.value), `on rank ${headroom.rank}`),
    tile("Refused", number(refused), refused === 0 ? "no allocation" : "allocations, done in pieces"),
    tile("Handed back", number(moved), moved === 0 ? "no sample" : "samples that others did")
  ];
}

function tiles() {
  const {newest, steps: done, step_ms: time} = report.run;
  const first = tile("Steps", number(done), newest === null ? "" : `in ${duration(time / 1000)}`);
  return html("div", {class: "tiles"}, first, ...(newest === null ? [] : stepTiles(newest)));
}

function ranksText() {
  const counts = environment("ranks").map(Number), newest = counts.pop(), most = Math.max(newest, ...counts);
  return `${number(newest)} ${newest === 1 ? "rank" : "ranks"}` +
    (most > newest ? `, up to ${number(most)} before` : "");
}

function startText() {
  const times = environment("started"), newest = times.pop(), first = times.shift();
  return first === undefined ? newest && `started ${newest}` : `started ${first}, went on ${newest}`;
}

function header() {
  const [text, kind] = state();
  const host = environment("host").pop(), version = environment("headroom").pop();
  const parts = [ranksText(), host && `host ${host}`, startText(), version && `headroom ${version.split(" ")[0]}`];
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
  const found = report.findings.map(entry), note = report.findings_note;
  return [
    html("h2", {id: "findings"}, "Findings"), ...(found.length > 0 ? [html("ul", {class: "findings"}, ...found)] : []),
    ...(note === "" ? [] : [html("p", {}, note)])
  ];
}

function validationPoints() {
  const {series, count} = report.evaluations, loss = reader(series.loss), accuracy = reader(series.accuracy);
  const also = [{name: "loss", read: loss, format: nats}, {name: "accuracy", read: accuracy, format: number}];
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
      format: nats,
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
