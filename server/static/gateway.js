/** The right side of the console: the gateway's streams, times and circuits, refreshed while the page is visible. */

import { getJson } from "./access.js";
import { make } from "./answer.js";
import { PHASES, phasesPlot, ttftPlot } from "./plots.js";

const EVERY = 2_000; // milliseconds
const SHOWN = 12; // live streams in the table, and requests in the plot
const SHOWN_ENDED = 6; // ended streams in the table
const LIVE = ["starting", "streaming", "recovering"];

const element = (/** @type {string} */ id) => /** @type {HTMLElement} */ (document.getElementById(id));
/** @type {Map<string, { records: number, at: number }>} the last look, by stream id, for the rates */
let before = new Map();
/** @type {any} */
let latest = null;
let width = 0; // for which the plots were drawn

export function startGateway() {
  element("phases-legend").replaceChildren(...PHASES.map((name) => make("span", `key ${name}`, name.replace("_", " "))));
  new ResizeObserver(() => { if (latest && element("ttft").clientWidth !== width) showStats(latest); }).observe(element("ttft"));
  void look();
}

async function look() {
  try {
    if (document.visibilityState === "visible") {
      const [{ data }, stats] = await Promise.all([getJson("v1/streams"), getJson("api/stats")]);
      showStreams(data);
      showStats(stats);
      document.body.classList.remove("away");
    }
  } catch {
    document.body.classList.add("away"); // the figures on the page are old; the next look may succeed
  }
  setTimeout(look, EVERY);
}

/** @param {any[]} streams */
function showStreams(streams) {
  const newest = streams.sort((a, b) => b.created - a.created);
  const live = newest.filter(({ state }) => LIVE.includes(state));
  const ended = newest.filter(({ state }) => !LIVE.includes(state));
  const visible = [...live.slice(0, SHOWN), ...ended.slice(0, SHOWN_ENDED)];
  const now = Date.now() / 1000;
  const rates = new Map();
  element("streams-title").textContent = `Streams (${live.length} live)`;
  element("streams").replaceChildren(...visible.map((stream) => {
    const isLive = LIVE.includes(stream.state);
    const last = before.get(stream.id) ?? { records: 0, at: stream.created };
    const rate = isLive ? (stream.records - last.records) / Math.max(now - last.at, 0.001) : NaN;
    rates.set(stream.id, { records: stream.records, at: now });
    const state = stream.paused ? "paused" : stream.state;
    const recovered = stream.recoveries ? ` ⟲${stream.recoveries}` : "";
    const age = isLive ? now - stream.created : stream.last_activity - stream.created;
    const cells = [
      make("td", "id", stream.id.slice(-8)), make("td", "", stream.model),
      make("td", "", make("span", `state ${state}`, state + recovered)), make("td", "number", seconds(age)),
      make("td", "number", isLive ? rate.toFixed(1) : ""), make("td", "number", isLive ? bytes(stream.lag) : ""),
      make("td", "number", isLive ? String(stream.readers) : ""),
    ];
    cells[0].title = `${stream.id} at ${stream.target}`;
    return make("tr", isLive ? "live" : "", ...cells);
  }));
  if (!visible.length) {
    const cell = /** @type {HTMLTableCellElement} */ (make("td", "none", "No streams yet."));
    cell.colSpan = 7;
    element("streams").replaceChildren(make("tr", "", cell));
  }
  before = rates;
}

/** @param {any} stats */
function showStats(stats) {
  latest = stats;
  width = element("ttft").clientWidth;
  const { ttft } = stats.windows["5m"];
  const legend = ["p50", "p95", "p99"].map((name) => make("span", `key ${name}`, `${name} ${milliseconds(ttft[name])}`));
  element("ttft-now").replaceChildren(...legend, make("span", "note", `last 5 min, ${ttft.count} request${ttft.count === 1 ? "" : "s"}`));
  element("ttft").replaceChildren(ttftPlot(stats.minutes, width));
  element("phases").replaceChildren(phasesPlot(stats.recent.slice(0, SHOWN), width));
  const circuits = Object.entries(stats.breakers).map(([target, state]) =>
    make("li", "", make("span", `state ${state}`, String(state).replace("_", " ")), ` ${target}`));
  element("circuits").replaceChildren(...(circuits.length ? circuits : [make("li", "none", "No target used yet.")]));
}

/** @param {number | null} value */
export function milliseconds(value) {
  if (value === null || value === undefined) return "–";
  return value >= 1000 ? `${(value / 1000).toFixed(1)} s` : `${value < 10 ? value.toFixed(1) : Math.round(value)} ms`;
}

/** @param {number} value */
function seconds(value) {
  if (value < 60) return `${value.toFixed(1)} s`;
  return value < 3600 ? `${Math.floor(value / 60)} min` : `${Math.floor(value / 3600)} h`;
}

/** @param {number} value */
function bytes(value) {
  return value < 1024 ? `${value} B` : `${(value / 1024).toFixed(1)} KB`;
}
