/** The gateway's streams, times and circuits, refreshed while the page is visible. */

import { getJson } from "./access.js";
import { details, facts, milliseconds } from "./details.js";
import { byId, make } from "./elements.js";
import { PHASES, phasesPlot, ttftPlot } from "./plots.js";

const EVERY = 2_000; // milliseconds
const SHOWN = 12; // live streams in the table, and requests in the plot
const SHOWN_ENDED = 12; // ended streams in the table
const LIVE = ["starting", "streaming", "recovering"];
const COLUMNS = 9;

const filter = /** @type {HTMLInputElement} */ (byId("filter"));
/** @type {Map<string, { records: number, at: number }>} the last look, by stream id, for the rates */
let before = new Map();
/** @type {any} */
let latest = null;
/** @type {any[]} */
let streams = [];
/** The stream whose details are shown, and the row that shows them. @type {{ id: string, row: HTMLElement } | null} */
let opened = null;
let width = 0; // for which the plots were drawn

export function startGateway() {
  byId("phases-legend").replaceChildren(...PHASES.map((name) => make("span", `key ${name}`, name.replace("_", " "))));
  new ResizeObserver(() => { if (latest && byId("ttft").clientWidth !== width) showStats(latest); }).observe(byId("ttft"));
  filter.addEventListener("input", () => showStreams(false));
  void look();
}

async function look() {
  try {
    if (document.visibilityState === "visible") {
      const [{ data }, stats] = await Promise.all([getJson("v1/streams"), getJson("api/stats")]);
      streams = data.sort((/** @type {any} */ a, /** @type {any} */ b) => b.created - a.created);
      showStats(stats);
      showStreams(true);
      document.body.classList.remove("away");
    }
  } catch {
    document.body.classList.add("away"); // the figures on the page are old; the next look may succeed
  }
  setTimeout(look, EVERY);
}

/** @param {any} stream */
function isWanted({ id, owner = "", model, target, state, paused }) {
  const words = filter.value.toLowerCase().split(/\s+/);
  const text = `${id} ${owner} ${model} ${target} ${paused ? "paused" : state}`.toLowerCase();
  return words.every((word) => text.includes(word));
}

/** @param {boolean} fresh whether the streams have just been asked for: rates are between two looks */
function showStreams(fresh) {
  const wanted = streams.filter(isWanted);
  const live = wanted.filter(({ state }) => LIVE.includes(state));
  const ended = wanted.filter(({ state }) => !LIVE.includes(state));
  const visible = [...live.slice(0, SHOWN), ...ended.slice(0, SHOWN_ENDED)];
  const now = Date.now() / 1000;
  const rates = new Map();
  const all = streams.filter(({ state }) => LIVE.includes(state)).length;
  byId("streams-title").textContent = `Streams (${all} live)`;
  const focused = document.activeElement?.closest("tr")?.dataset.id;
  const below = opened;
  byId("streams").replaceChildren(...visible.flatMap((stream) => {
    rates.set(stream.id, { records: stream.records, at: now });
    const row = rowOf(stream, now);
    return below && below.id === stream.id ? [row, below.row] : [row];
  }));
  if (!visible.length) {
    const cell = wide(streams.length ? "No stream fits the filter." : "No streams yet.");
    byId("streams").replaceChildren(make("tr", "", cell));
  }
  if (focused) /** @type {HTMLElement | null} */ (document.querySelector(`tr[data-id="${CSS.escape(focused)}"] button`))?.focus();
  if (fresh) before = rates;
}

/**
 * @param {any} stream
 * @param {number} now
 */
function rowOf(stream, now) {
  const isLive = LIVE.includes(stream.state);
  const last = before.get(stream.id) ?? { records: 0, at: stream.created };
  const rate = (stream.records - last.records) / Math.max(now - last.at, 0.001);
  const state = stream.paused ? "paused" : stream.state;
  const recovered = stream.recoveries ? ` ⟲${stream.recoveries}` : "";
  const took = isLive ? now - stream.created : stream.last_activity - stream.created;
  const open = make("button", "id", `…${stream.id.slice(-6)}`);
  open.title = `${stream.id} at ${stream.target}`;
  open.setAttribute("aria-expanded", String(opened?.id === stream.id));
  open.setAttribute("aria-label", `Details of stream ${stream.id}`);
  const cells = [
    make("td", "", open), make("td", "model", stream.model),
    make("td", "", make("span", `state ${state}`, state + recovered)),
    make("td", "number", new Date(stream.created * 1000).toLocaleTimeString()), make("td", "number", seconds(took)),
    make("td", "number", isLive ? `≈ ${stream.records}` : tokens(stream)), make("td", "number", isLive ? rate.toFixed(1) : ""),
    make("td", "number", isLive ? bytes(stream.lag) : ""), make("td", "number", isLive ? String(stream.readers) : ""),
  ];
  const row = make("tr", isLive ? "live" : "", ...cells);
  row.dataset.id = stream.id;
  row.addEventListener("click", () => toggle(stream));
  return row;
}

/** @param {any} stream */
function tokens(stream) {
  const known = facts.get(stream.id);
  if (known === undefined) void facts.ask(stream.id).then(() => showStreams(false));
  const count = known?.usage?.completion_tokens;
  return count === undefined ? "" : `${known.usage.measured === false ? "≈ " : ""}${count}`;
}

/** @param {any} stream */
function toggle(stream) {
  if (opened?.id === stream.id) {
    opened = null;
  } else {
    const cell = wide();
    opened = { id: stream.id, row: make("tr", "details", cell) };
    const attempts = latest.recent.filter((/** @type {any} */ { stream_id }) => stream_id === stream.id);
    void details(stream.id, attempts).then((element) => cell.replaceChildren(element));
  }
  showStreams(false);
}

/** @param {...string} words */
function wide(...words) {
  const cell = /** @type {HTMLTableCellElement} */ (make("td", "none", ...words));
  cell.colSpan = COLUMNS;
  return cell;
}

/** @param {any} stats */
function showStats(stats) {
  latest = stats;
  width = byId("ttft").clientWidth;
  const { ttft } = stats.windows["5m"];
  const legend = ["p50", "p95", "p99"].map((name) => make("span", `key ${name}`, `${name} ${milliseconds(ttft[name])}`));
  byId("ttft-now").replaceChildren(...legend, make("span", "note", `last 5 min, ${ttft.count} request${ttft.count === 1 ? "" : "s"}`));
  byId("ttft").replaceChildren(ttftPlot(stats.minutes, width));
  byId("phases").replaceChildren(phasesPlot(stats.recent.slice(0, SHOWN), width));
  const circuits = Object.entries(stats.breakers).map(([target, state]) =>
    make("li", "", make("span", `state ${state}`, String(state).replace("_", " ")), ` ${target}`));
  byId("circuits").replaceChildren(...(circuits.length ? circuits : [make("li", "none", "No target used yet.")]));
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
