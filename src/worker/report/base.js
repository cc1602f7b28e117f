// SPDX-License-Identifier: Apache-2.0
//
// What the rest of the page is made of: elements, numbers, the report's series, tables. Text goes onto the page as text
// alone: nothing here parses HTML.
"use strict";

const report = JSON.parse(document.getElementById("data").textContent);
const main = document.getElementById("main");

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

const whole = new Intl.NumberFormat("en-US", {maximumFractionDigits: 0});

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

// A loss may grow beyond what can be read, and what there is room for.
const LARGE_LOSS = 1e7;
const nats = (value) => value === null || Math.abs(value) < LARGE_LOSS ? number(value) : value.toExponential(2);

const compact = new Intl.NumberFormat("en-US", {notation: "compact"});
function tickText(value, format) {
  if (format === bytes) {
    return roundBytes(value);
  }
  const isLarge = format === nats && Math.abs(value) >= LARGE_LOSS;
  return Math.abs(value) < 10000 || isLarge ? format(value) : compact.format(value);
}
const roundBytes = (value) => (value === 0 ? "0" : bytes(value).replace(/\.00 /, " "));
const milliseconds = (value) => (value === null ? "none" : `${number(value)} ms`);
const percent = (value) => (value === null ? "none" : `${number(100 * value)} %`);
const levers = (value) => (value === null ? "none planned" : report.levers[value] ?? "unknown");

function duration(seconds) {
  if (seconds < 60) {
    return `${number(seconds)} s`;
  }
  const rounded = Math.round(seconds), minutes = Math.floor(rounded / 60), hours = Math.floor(minutes / 60);
  return hours === 0 ? `${minutes} min ${rounded % 60} s` : `${hours} h ${minutes % 60} min`;
}

// Series: {min, max, mean or sum} as arrays over columns, or {value}, where a column is one step. A number in place of
// an array stands for every column.

const at = (values, i) => (Array.isArray(values) ? values[i] : values) ?? null;

function reader(series) {
  const value = series.value ?? series.sum;
  if (value !== undefined) {
    const read = (i) => at(value, i);
    return {min: read, max: read, mean: read, exact: true};
  }
  const min = (i) => at(series.min, i), max = (i) => at(series.max, i);
  return {min, max, mean: series.mean === undefined ? max : (i) => at(series.mean, i), exact: false};
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
  if (!Number.isFinite(low) || low > high) {
    return [0, 1];
  }
  const room = low === high ? Math.abs(high || 1) / 10 : 0;
  return [from ?? low - room, high + room];
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

const stepNumbers = (columns, i) => stepsOf(columns, i).replace(/^steps? /, "");

function range(read, i, format) {
  const low = read.min(i), high = read.max(i);
  return low === high ? format(low) : `${format(low)} to ${format(high)}`;
}

// A cell: text, or [value, shown].
function cell(content, tag = "td", attributes = {}) {
  if (!Array.isArray(content)) {
    return html(
      tag, typeof content === "string" && tag === "td" ? {class: "text", ...attributes} : attributes, String(content));
  }
  return html(tag, attributes, content[0] === null ? "" : html("data", {value: content[0]}, content[1]));
}

function table(id, caption, heads, rows) {
  const head = html("tr", {}, ...heads.map((name) => html("th", {scope: "col"}, name)));
  const body = rows.map(
    (row) => html("tr", {}, cell(row[0], "th", {scope: "row"}), ...row.slice(1).map((content) => cell(content))));
  return html("table", {id}, html("caption", {}, caption), html("thead", {}, head), html("tbody", {}, ...body));
}

function behind(summary, ...content) {
  const scroll = html("div", {class: "scroll", tabindex: "0", role: "region", "aria-label": summary}, ...content);
  return html("details", {}, html("summary", {}, summary), scroll);
}

const figure = (value, format) => [value, value === null ? "" : format(value)];
