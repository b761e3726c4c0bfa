/**
 * Reads the native protocol. It works like `EventSource`, but takes a body and headers, and has an end.
 *
 *     const events = new StreamEvents("/api/stream", { body: { model: "small", prompt: "Hello" } });
 *     events.addEventListener("token", ({ data }) => show(data.content));
 *     events.addEventListener("end", () => …);
 *
 * Each event of the gateway is dispatched under its own name: `start`, `token`, `reasoning`, `tool_call`,
 * `tool_result`, `recovery`, `error`, `gap`, `done`. Events of a stream in the chat dialect are dispatched as `message`.
 * Each is a `MessageEvent` with parsed `data` and `lastEventId`. There are three further events: `open` for every
 * connection, `cut` when a connection is lost and the next attempt begins, and `end`, which always comes last and
 * exactly once.
 */

import { makeResumingFetch } from "./resume.js";
import { readEvents } from "./sse.js";

export class StreamEvents extends EventTarget {
  static CONNECTING = 0;
  static OPEN = 1;
  static CLOSED = 2;

  /** @type {0 | 1 | 2} as in EventSource */
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
   * @param {string | URL} url `/api/stream`; or `/v1/streams/{id}?format=native` without a body, to read a stream again
   * @param {object} [options]
   * @param {object} [options.body] the request; without it the method is GET
   * @param {Record<string, string>} [options.headers]
   * @param {string} [options.lastEventId] the event after which reading begins
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
    const allHeaders = { accept: "text/event-stream", ...headers };
    if (body) allHeaders["content-type"] = "application/json";
    if (lastEventId) allHeaders["last-event-id"] = lastEventId;
    const init = { method: body ? "POST" : "GET", headers: allHeaders, body: body && JSON.stringify(body) };
    // In a microtask, so that the caller can add its listeners first.
    queueMicrotask(() => void this.#run({ ...init, signal: this.#leaving.signal }));
  }

  /** Stop reading. The stream itself goes on for `linger` seconds of the gateway, and can be read again. */
  close() {
    this.#leaving.abort();
  }

  /** Abort the generation. The last events are then an error `cancelled` and `done`. */
  async stop() {
    this.#stopping = true;
    if (!this.id) return; // `#opened` does it when the id is known
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
