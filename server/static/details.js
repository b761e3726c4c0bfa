/** What is known of one stream: its state, its attempts with their phases, its recoveries with their causes. */

import { getJson, keyHeaders } from "./access.js";
import { make } from "./elements.js";
import { PHASES } from "./plots.js";
import { readEvents } from "./sse.js";

const LIVE = ["starting", "streaming", "recovering"];
const KEPT = 500; // streams whose facts are remembered

/** The facts of ended streams, which do not change any more. They are asked for once. */
export const facts = {
  /** @type {Map<string, any>} */
  known: new Map(),

  /** @param {string} id */
  get(id) {
    return this.known.get(id);
  },

  /** @param {string} id */
  async ask(id) {
    if (this.known.size >= KEPT) this.known.clear();
    this.known.set(id, null); // being asked for
    const state = await getJson(`v1/streams/${id}`).catch(() => null);
    this.known.set(id, state);
  },
};

/**
 * @param {string} id
 * @param {any[]} attempts those of this stream, newest first
 * @returns {Promise<HTMLElement>}
 */
export async function details(id, attempts) {
  let state;
  try {
    state = await getJson(`v1/streams/${id}`);
  } catch (error) {
    return make("p", "failed", `The stream cannot be read: ${error instanceof Error ? error.message : error}`);
  }
  /** @type {[string, string | HTMLElement][]} */
  const rows = [
    ["Id", make("span", "id", state.id)],
    ["Model", state.model],
    ["Target", state.target || "–"],
    ["State", state.paused ? `${state.state}, paused for its reader` : state.state],
    ["Began", new Date(state.created * 1000).toLocaleString()],
    ["Last activity", new Date(state.last_activity * 1000).toLocaleString()],
    ["Log", `${state.records} records, ${state.bytes} bytes`],
    ["Usage", usage(state.usage)],
  ];
  if (state.owner !== undefined) rows.splice(1, 0, ["Owner", state.owner || "no key"]); // an admin key is told
  if (state.error) rows.push(["Error", make("span", "failed", `${state.error.message} (${state.error.code})`)]);
  // A live stream is not read for this: its relay would take the console for a reader that keeps up.
  const ended = !LIVE.includes(state.state);
  if (state.recoveries) rows.push(["Recoveries", ended ? await recoveries(id) : `${state.recoveries} so far`]);
  if (attempts.length) rows.push(["Attempts", list(attempts.toReversed().map(phases))]);
  return make("dl", "", ...rows.flatMap(([name, value]) => [make("dt", "", name), make("dd", "", value)]));
}

/** @param {any} used */
function usage(used) {
  if (!used) return "–";
  const words = `${used.prompt_tokens} prompt, ${used.completion_tokens} completion tokens`;
  return used.measured === false ? `${words}, estimated` : words;
}

/** @param {any} attempt */
function phases(attempt) {
  const times = PHASES.filter((name) => attempt[name]).map((name) => `${name.replace("_", " ")} ${milliseconds(attempt[name])}`);
  const facts = [times.join(", ") || "no answer", ...(attempt.error ? [`failed: ${attempt.error}`] : [])];
  return `${attempt.target}: ${facts.join("; ")}`;
}

/**
 * @param {string} id
 * @returns {Promise<HTMLElement>} one line per recovery, read from the stream's log
 */
async function recoveries(id) {
  const lines = [];
  try {
    const url = new URL(`v1/streams/${id}?format=native`, document.baseURI);
    const response = await fetch(url, { headers: { accept: "text/event-stream", ...keyHeaders() } });
    if (!response.ok || !response.body) throw new Error(String(response.status));
    for await (const { type, data } of readEvents(response.body)) {
      if (type !== "recovery") continue;
      const { strategy, target, reason, exact } = JSON.parse(data);
      lines.push(`${strategy} at ${target} after ${reason}${exact ? "" : ", the seam may show"}`);
    }
  } catch (error) {
    lines.push(`They cannot be read: ${error instanceof Error ? error.message : error}`);
  }
  return list(lines);
}

/** @param {string[]} lines */
function list(lines) {
  return make("ul", "", ...lines.map((line) => make("li", "", line)));
}

/** @param {number | null | undefined} value */
export function milliseconds(value) {
  if (value === null || value === undefined) return "–";
  return value >= 1000 ? `${(value / 1000).toFixed(1)} s` : `${value < 10 ? value.toFixed(1) : Math.round(value)} ms`;
}
