// SPDX-License-Identifier: Apache-2.0
//
// The page, from top to bottom.

function eventText(event) {
  if (event.kind === "resume") {
    return `went on with ${number(event.ranks)} ranks from ${event.text}`;
  }
  return event.kind === "end" ?
    `${(ENDS[event.status] ?? [`code ${event.status}`])[0]} after ${duration(event.seconds)}` :
    `checkpoint not written: ${event.text}`;
}

function appendix() {
  const {checkpoints, run} = report;
  const written = checkpoints.written === 0 ?
    "No checkpoint was written." :
    `Checkpoints written: ${number(checkpoints.written)}, ${bytes(checkpoints.bytes)} in all. Training waited ${
      duration(checkpoints.pause_ms / 1000)} for them.`;
  const events = run.events.length === 0 ? null :
                                           table("table-events", "Processes", ["steps done", "what happened"],
                                             run.events.map((event) => [number(event.step), eventText(event)]));
  return [
    html("h2", {id: "record"}, "Record"),
    html("section", {class: "panel"}, html("p", {}, written), events,
      behind("Environment", html("pre", {}, run.environment)),
      behind("Configuration", html("pre", {}, run.configuration)))
  ];
}

function build() {
  header();
  main.append(tiles(), ...findings());
  if (report.run.newest === null) {
    main.append(html("h2", {id: "training"}, "Training"), html("p", {}, "No step has been done yet."));
  } else {
    main.append(...training(), ...rankSection());
  }
  main.append(...memorySection(), ...appendix());
}

build();
