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

function tiles() {
  const {newest, events} = report.run, shown = [];
  const evaluation = reader(report.evaluations.series.loss), accuracy = reader(report.evaluations.series.accuracy);
  const last = report.evaluations.count - 1;
  const seconds = events.reduce((all, event) => all + (event.seconds ?? 0), 0);
  shown.push(tile("Steps", number(report.run.steps), seconds > 0 ? duration(seconds) : environment("started") ?? ""));
  if (newest !== null) {
    const headroom = lowestHeadroom(), refused = overRanks("oom_retries"), moved = overRanks("handed_back");
    const byTokens = report.run.tokens !== report.run.samples, rate = of(byTokens ? "tokens_per_s" : "samples_per_s");
    shown.push(tile("Loss", number(newest.loss), `of step ${number(newest.step)}`));
    if (last >= 0) {
      shown.push(
        tile("Validation loss", number(evaluation.mean(last)), `accuracy ${(100 * accuracy.mean(last)).toFixed(2)} %`));
    }
    const middle =
      Array.from({length: steps.count}, (_, i) => rate.mean(i)).filter((value) => value !== null).sort((a, b) => a - b);
    shown.push(tile(byTokens ? "Tokens/s" : "Samples/s", number(Math.round(middle[middle.length >> 1] ?? 0)),
      "median over the steps"));
    shown.push(tile("Lowest headroom", bytes(headroom.value), `on rank ${headroom.rank}`));
    shown.push(tile("Refused", number(refused), "allocations, done in pieces"));
    shown.push(tile("Handed back", number(moved), moved === 0 ? "no sample" : "samples that others did"));
  }
  return html("div", {class: "tiles"}, ...shown);
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

function training() {
  const byTokens = report.run.tokens !== report.run.samples;
  const evaluations = report.evaluations, loss = reader(evaluations.series.loss);
  const points = evaluations.count === 0 ? null : {
    columns: evaluations,
    read: loss,
    name: "validation loss",
    also: [
      {name: "loss", read: loss, format: number},
      {name: "accuracy", read: reader(evaluations.series.accuracy), format: number}
    ],
  };
  return [
    html("h2", {id: "training"}, "Training"),
    html("div", {class: "grid"}, lineChart({
      id: "loss",
      title: "Loss in nats",
      columns: steps,
      points,
      format: number,
      series: [{name: "training loss", style: "first", read: of("loss")}]
    }),
      lineChart({
        id: "throughput",
        title: byTokens ? "Tokens per second" : "Samples per second",
        columns: steps,
        format: number,
        from: 0,
        series: [{
          name: byTokens ? "tokens/s" : "samples/s",
          style: "first",
          read: of(byTokens ? "tokens_per_s" : "samples_per_s")
        }]
      }),
      lineChart({
        id: "time",
        title: "Time of a step",
        columns: steps,
        format: milliseconds,
        from: 0,
        series: [
          {name: "step", style: "first", read: of("step_ms")},
          {name: "predicted", style: "second", read: of("predicted_ms")}
        ]
      }),
      lineChart({
        id: "waits",
        title: "Of it, waiting and coordinating",
        columns: steps,
        format: milliseconds,
        from: 0,
        series: [
          {name: "all-reduce", style: "first", read: of("comm_ms")},
          {name: "data", style: "second", read: of("data_wait_ms")},
          {name: "coordination", style: "third", read: of("coordination_ms")}
        ]
      })),
  ];
}
