/**
 * The native protocol in the manner of `EventSource`, but with a body, headers and an end.
 *
 *     const events = new StreamEvents("/api/stream", { body: { model: "small", prompt: "Hello" } });
 *     events.addEventListener("token", ({ data }) => show(data.content));
 *     events.addEventListener("end", () => …);
 *
 * Every event of the gateway is dispatched under its own name (`start`, `token`, `tool_call`, `tool_result`,
 * `recovery`, `error`, `gap`, `done`; a stream read in the OpenAI form gives `message`) as a `MessageEvent` with parsed
 * `data` and `lastEventId`. Beside them: `open` for every connection, `cut` when one is lost and the next is under way,
 * and `end`, always last and exactly once.
 */

import { makeResumingFetch } from "./resume.js";
import { readEvents } from "./sse.js";

export class StreamEvents extends EventTarget {
  static CONNECTING = 0;
  static OPEN = 1;
  static CLOSED = 2;

  /** @type {0 | 1 | 2} as EventSource's */
  readyState = 0;
  /** The stream's id, once it is known. */
  id = "";
  /** The id of the last event. */
  lastEventId = "";
  #leaving = new AbortController();
  #stopping = false;
  #url;
  #headers;
  #fetch;

  /**
   * @param {string | URL} url `/api/stream`; or, without a body, `/v1/streams/{id}?format=native` to read a stream again
   * @param {object} [options]
   * @param {object} [options.body] the request; a GET without one
   * @param {Record<string, string>} [options.headers]
   * @param {string} [options.lastEventId] read on after this event
   * @param {import("./resume.js").Options} [options.resume]
   */
  constructor(url, { body, headers = {}, lastEventId = "", resume = {} } = {}) {
    super();
    this.#url = url;
    this.#headers = { ...headers };
    this.#fetch = makeResumingFetch({
      ...resume,
      stopOnAbort: false,
      onOpen: (id) => this.#opened(id),
      onCut: () => this.#cut(),
    });
    this.lastEventId = lastEventId;
    /** @type {Record<string, string>} */
    const sent = { accept: "text/event-stream", ...headers };
    if (body) sent["content-type"] = "application/json";
    if (lastEventId) sent["last-event-id"] = lastEventId;
    const init = { method: body ? "POST" : "GET", headers: sent, body: body && JSON.stringify(body) };
    // In a task of its own, so that listeners can be added first.
    queueMicrotask(() => void this.#run({ ...init, signal: this.#leaving.signal }));
  }

  /** Stop reading. The stream itself goes on for the gateway's `linger`, and can be read again. */
  close() {
    this.#leaving.abort();
  }

  /** Abort the generation: the events end with its error `cancelled` and `done`. */
  async stop() {
    this.#stopping = true;
    if (!this.id) return; // as soon as it has a name
    const { origin, pathname } = new URL(this.#url, globalThis.location?.href);
    const path = pathname.replace(/\/api\/stream$|\/v1\/streams\/[^/]+$/, `/v1/streams/${this.id}`);
    await fetch(`${origin}${path}?reason=stopped+by+the+user`, { method: "DELETE", headers: this.#headers });
  }

  /** @param {RequestInit} init */
  async #run(init) {
    try {
      const response = await this.#fetch(this.#url, init);
      if (response.status === 200 && response.body) await this.#read(response.body);
      else if (response.status !== 204) this.#send("error", await failure(response));
    } catch (error) {
      if (!this.#leaving.signal.aborted) {
        const message = `The gateway cannot be reached: ${error instanceof Error ? error.message : error}`;
        this.#send("error", { type: "error", message, code: "unreachable", retryable: true, resumable: false });
      }
    }
    this.readyState = 2;
    this.#send("end", null);
  }

  /** @param {ReadableStream<Uint8Array>} body */
  async #read(body) {
    for await (const { type, data, id } of readEvents(body)) {
      if (id !== null) this.lastEventId = id;
      this.#send(type || "message", data === "[DONE]" ? data : JSON.parse(data));
    }
  }

  /** @param {string} id */
  #opened(id) {
    this.id = id;
    this.readyState = 1;
    this.#send("open", null);
    if (this.#stopping) void this.stop().catch(() => {});
  }

  #cut() {
    this.readyState = 0;
    this.#send("cut", null);
  }

  /**
   * @param {string} type
   * @param {unknown} data
   */
  #send(type, data) {
    this.dispatchEvent(new MessageEvent(type, { data, lastEventId: this.lastEventId }));
  }
}

/** @param {Response} response */
async function failure(response) {
  const { error } = await response.json().catch(() => ({ error: null }));
  return {
    type: "error",
    message: error?.message ?? `The gateway answered ${response.status}.`,
    code: error?.code ?? `http_${response.status}`,
    retryable: response.status === 429 || response.status >= 500,
    resumable: false,
    status: response.status,
  };
}
