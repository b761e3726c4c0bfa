/** Two plots as SVG. The style sheet colours them. Times are in milliseconds. */

import { make } from "./elements.js";

const SVG = "http://www.w3.org/2000/svg";
const WIDTHS = [280, 480, 1000]; // least, usual (if the plot is hidden) and most; a unit is about a pixel
const LINES = ["p99", "p95", "p50"];
const SPANS = [5, 10, 20, 30, 60]; // minutes; the plot shows the first of them that has all the data
export const PHASES = ["dns", "connect", "tls", "headers", "first_token"];

/**
 * @param {string} name
 * @param {Record<string, string | number>} attributes
 * @param {...(Node | string)} children
 */
function svg(name, attributes, ...children) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, String(value));
  element.append(...children);
  return element;
}

/**
 * @param {number} width
 * @param {number} height
 * @param {string} label
 */
function canvas(width, height, label) {
  return svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label }, svg("title", {}, label));
}

/** @param {number} available */
function fit(available) {
  const [least, usual, most] = WIDTHS;
  return available ? Math.min(most, Math.max(least, available)) : usual;
}

/**
 * @param {{ at: number, p50: number, p95: number, p99: number, count: number }[]} minutes
 * @param {number} available width in pixels
 * @returns {Element} percentiles since the first request of the last hour. The scale is logarithmic, as a first token may
 *   take 10 ms or 10 s.
 */
export function ttftPlot(minutes, available) {
  const [width, left, top, bottom, height] = [fit(available), 52, 8, 124, 148];
  const plot = canvas(width, height, "Percentiles of the time to first token over the last hour");
  const values = minutes.flatMap(({ p50, p99 }) => [p50, p99]);
  const low = Math.floor(Math.log10(Math.max(0.1, Math.min(...values, 100))));
  const high = Math.max(Math.ceil(Math.log10(Math.max(...values, 100))), low + 1);
  const now = Date.now() / 60_000;
  const first = minutes.length ? now - Math.min(...minutes.map(({ at }) => at)) / 60 : 0;
  const span = SPANS.find((some) => some >= first) ?? 60;
  const x = (/** @type {number} */ at) => left + (width - left - 8) * (1 - Math.min(1, (now - at / 60) / span));
  const y = (/** @type {number} */ value) => bottom - (bottom - top) * (Math.log10(Math.max(value, 10 ** low)) - low) / (high - low);
  for (let power = low; power <= high; power += 1) {
    const at = y(10 ** power);
    plot.append(
      svg("line", { class: "grid", x1: left, x2: width - 8, y1: at, y2: at }),
      svg("text", { class: "tick", x: left - 6, y: at + 4, "text-anchor": "end" }, unit(10 ** power)),
    );
  }
  for (const part of width < 400 ? [1, 0.5, 0] : [1, 0.75, 0.5, 0.25, 0]) {
    const ago = span * part;
    const text = ago ? `−${ago} min` : "now";
    const anchor = part === 1 ? "start" : ago ? "middle" : "end";
    plot.append(svg("text", { class: "tick", x: x((now - ago) * 60), y: height - 6, "text-anchor": anchor }, text));
  }
  for (const name of /** @type {("p50" | "p95" | "p99")[]} */ (LINES)) {
    const points = minutes.map((minute) => [x(Math.min(minute.at + 30, now * 60)), y(minute[name])]);
    plot.append(svg("polyline", { class: `line ${name}`, points: points.map((point) => point.join(",")).join(" ") }));
    for (const [cx, cy] of points) plot.append(svg("circle", { class: `dot ${name}`, cx, cy, r: 2.5 }));
  }
  if (!minutes.length) plot.append(empty((left + width) / 2, (top + bottom) / 2));
  return plot;
}

/**
 * @param {any[]} recent attempts, newest first
 * @param {number} available width in pixels
 * @returns {Element} one bar per attempt, with its phases side by side, below the name of its target
 */
export function phasesPlot(recent, available) {
  const [width, right, row] = [fit(available), 64, 14];
  const totals = recent.map((attempt) => PHASES.reduce((sum, name) => sum + (attempt[name] ?? 0), 0));
  const scale = (width - right) / Math.max(...totals, 1);
  const bars = recent.map((attempt, index) => {
    const plot = canvas(width, row, `Phases of a request to ${attempt.target}`);
    let x = 0;
    for (const phase of PHASES) {
      const length = (attempt[phase] ?? 0) * scale;
      if (length <= 0) continue;
      const label = svg("title", {}, `${phase.replace("_", " ")}: ${unit(attempt[phase])}`);
      plot.append(svg("rect", { class: `bar ${phase}`, x, y: 1, width: Math.max(length, 1), height: row - 2 }, label));
      x += Math.max(length, 1);
    }
    const end = totals[index] ? { class: "tick", x: x + 6, y: 11 } : { class: "tick failed", x, y: 11 };
    plot.append(svg("text", end, totals[index] ? unit(totals[index]) : "no answer"));
    return make("li", "", make("span", "target", attempt.target), plot);
  });
  if (recent.length) return make("ul", "bars", ...bars);
  const plot = canvas(width, 22, "Phases of the last requests");
  plot.append(empty(width / 2, 14));
  return plot;
}

/**
 * @param {number} x
 * @param {number} y
 */
function empty(x, y) {
  return svg("text", { class: "tick", x, y, "text-anchor": "middle" }, "No requests in the last hour");
}

/** @param {number} value */
function unit(value) {
  return value >= 1000 ? `${+(value / 1000).toFixed(1)} s` : `${+value.toFixed(value < 10 ? 1 : 0)} ms`;
}
