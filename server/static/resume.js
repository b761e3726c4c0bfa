/**
 * A `fetch` whose streams survive lost connections, restarts and deploys of the gateway.
 *
 * Only whole events go through. If a cut leaves an event unfinished, it is dropped, and `GET /v1/streams/{id}` with
 * `Last-Event-ID` brings what is missing. A body that ends without a terminal event (`[DONE]`, an error, `message_stop`,
 * the native `done`) was cut, even if it ended cleanly. If a stream cannot go on, it ends with an error event of code
 * `stream_lost`.
 *
 * @typedef {object} Options all times are in milliseconds
 * @property {typeof fetch} [fetch] the function to wrap; default: the platform's own
 * @property {number} [giveUpAfter] longest time without a connection since the last event; default: 60 000
 * @property {number} [firstWait] pause before the first attempt; it doubles each time and is jittered; default: 250
 * @property {number} [longestWait] longest pause between two attempts; default: 5 000
 * @property {number} [silence] silence that counts as a cut; heartbeats come every 15 000; default: 45 000
 * @property {boolean} [stopOnAbort] abort the generation when the program leaves its stream early; default: true
 * @property {(lastId: string) => void} [onCut] called whenever a connection is lost
 * @property {(streamId: string) => void} [onOpen] called whenever a stream is connected
 */

import { Decoder, frame } from "./sse.js";

// Paths that create streams, by their last part, and what replaces that part in the path that reads the stream.
const CREATING = [
  ["/chat/completions", "/streams/"], ["/responses", "/streams/"], ["/messages", "/streams/"], ["/api/stream", "/v1/streams/"],
];
// What tells a stream's dialect: the path that created it, or else the beginning of its first named event.
const DIALECTS = [["/responses", "responses"], ["/messages", "messages"], ["/api/stream", "native"]];
const EVENTS = [["response.", "responses"], ["message_", "messages"], ["content_block_", "messages"], ["ping", "messages"]];
const STREAM_PATH = /\/v1\/streams\/[^/]+$/;
const RESPONSE_PATH = /\/v1\/responses\/[^/]+$/; // reads a stream if its query says so
const OWN_TO_POST = ["content-length", "content-type", "idempotency-key", "x-on-disconnect", "accept"];
const AWAY = [502, 503, 504]; // a proxy sends these, and a gateway that is starting or stopping
const LEAVING = 10_000; // milliseconds to wait for the head of a stream that will be aborted
const TIDY = 1_000; // milliseconds to wait for the end of a body after its terminal event
const NO_BODY = [101, 204, 205, 304];
/** @type {Record<number, string>} */
const LOST = {
  400: "the gateway has fewer events of this stream than were received",
  401: "the gateway no longer takes the key",
  403: "the gateway no longer takes the request",
  404: "the gateway does not know this stream any more (restarted without a durable store, or its retention is over)",
};

/**
 * @param {Options} [options]
 * @returns {typeof fetch}
 */
export function makeResumingFetch(options = {}) {
  const settings = {
    fetch: (/** @type {RequestInfo | URL} */ input, /** @type {RequestInit | undefined} */ init) =>
      globalThis.fetch(input, init),
    giveUpAfter: 60_000, firstWait: 250, longestWait: 5_000, silence: 45_000, stopOnAbort: true,
    onCut: () => {}, onOpen: () => {}, ...options,
  };
  return async (input, init) => {
    const request = new Request(input, init);
    if (!canResume(request)) return settings.fetch(input, init);
    const body = request.method === "POST" ? await request.arrayBuffer() : undefined;
    return new Resumption(request, body, init ?? {}, settings).open();
  };
}

/** For `new OpenAI({ fetch })`, Vercel's AI SDK and everything else that takes a `fetch`. */
export const resumingFetch = makeResumingFetch();

/** @returns {string} 128 random bits. Pages that were not loaded over TLS have no `crypto.randomUUID`. */
export function randomKey() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** @param {Request} request */
function canResume(request) {
  const { pathname, protocol, searchParams } = new URL(request.url);
  if (!protocol.startsWith("http")) return false; // such an address never answers
  if (request.method === "POST") return CREATING.some(([end]) => pathname.endsWith(end));
  if (RESPONSE_PATH.test(pathname)) return request.method === "GET" && searchParams.get("stream") === "true";
  const wantsJson = (request.headers.get("accept") ?? "").includes("application/json");
  return request.method === "GET" && STREAM_PATH.test(pathname) && !wantsJson;
}

/**
 * @param {ArrayBuffer | undefined} body
 * @returns {string | null} its `last_event_id` if it reads a stream again by `session_id`; null for any other request
 */
function sessionOf(body) {
  const text = new TextDecoder().decode(body);
  if (!text.includes('"session_id"')) return null;
  try {
    const { session_id: session, last_event_id: last } = JSON.parse(text);
    return session ? String(last || "") : null;
  } catch {
    return null; // the gateway will report what is wrong with it
  }
}

/**
 * @param {ArrayBuffer | undefined} body
 * @returns {boolean} whether it asks for a response that goes on without its client
 */
function isInBackground(body) {
  const text = new TextDecoder().decode(body);
  if (!text.includes('"background"')) return false;
  try {
    return JSON.parse(text).background === true;
  } catch {
    return false; // the gateway will report what is wrong with it
  }
}

/** One stream over as many connections as it takes. */
class Resumption {
  #ended = false;
  #dialect;
  #creates; // whether this request creates the stream, and does not only read it
  #url = "";
  #lastId;
  #decoder = new Decoder();
  #reason = "the connection was lost";
  // In a dialect that did not create the stream, one record may become several events. All but the last carry the id
  // before it, so one id may come several times. After a cut such events come again and must be skipped.
  #siblings = 0; // events that came under the last id, not counting the first
  #repeats = 0; // how many of these are still to be skipped
  #attempts = 0;
  #disconnected = 0; // milliseconds without a connection, before the present outage
  /** @type {number | null} when the connection was lost; null if there is one */
  #since = null;
  /** @type {ReadableStreamDefaultReader<Uint8Array> | null} */
  #reader = null;

  /**
   * @param {Request} request
   * @param {ArrayBuffer | undefined} body
   * @param {RequestInit} init for options that are not in the standard, such as Node's `dispatcher`
   * @param {Required<Options>} settings
   */
  constructor(request, body, init, settings) {
    this.request = request;
    this.body = body;
    this.init = init;
    this.settings = settings;
    this.headers = new Headers(request.headers);
    const url = new URL(request.url);
    const path = request.method === "POST" ? url.pathname : "";
    this.#dialect = DIALECTS.find(([end]) => path.endsWith(end))?.[1] ?? "chat";
    const session = sessionOf(body);
    this.#creates = request.method === "POST" && session === null && !isInBackground(body);
    this.#lastId = this.headers.get("last-event-id") ?? url.searchParams.get("after") ?? session ?? "";
    if (request.method === "POST") {
      if (!this.headers.has("idempotency-key")) this.headers.set("idempotency-key", `resume-${randomKey()}`);
      if (!this.headers.has("x-on-disconnect")) this.headers.set("x-on-disconnect", "continue");
    }
  }

  /** @returns {Promise<Response>} the first response that does not say that the gateway is away */
  async open() {
    const { request, settings } = this;
    for (;;) {
      let wait;
      try {
        const response = await this.#head();
        if (this.#isStream(response)) return this.#streaming(response);
        // Read it here: if it is cut, the request can still be repeated.
        const body = NO_BODY.includes(response.status) ? null : await response.arrayBuffer();
        wait = this.#isAway(response) ? this.#wait(response) : null;
        if (wait === null) return copy(response, body);
      } catch (error) {
        if (request.signal.aborted) throw error;
        wait = this.#wait();
        if (wait === null) throw error;
      }
      await sleep(wait, request.signal);
    }
  }

  /** @returns {Promise<Response>} the gateway's response. Rejects if the program leaves before it comes. */
  async #head() {
    const { request, settings, headers, body } = this;
    // Do not pass on the program's own signal. If a request is cut before its head, the stream's id is not known. Then
    // nobody could abort the stream, and it would linger. So wait for the head, and then abort the stream.
    const line = new AbortController();
    const pending = settings.fetch(request.url, {
      ...this.init, method: request.method, headers, body, signal: line.signal,
    });
    try {
      return await unlessAborted(request.signal, pending);
    } catch (error) {
      if (request.signal.aborted) {
        const timer = setTimeout(() => line.abort(), LEAVING);
        const stop = (/** @type {Response} */ response) => void (this.#isStream(response) && this.#leave());
        pending.then(stop, () => {}).finally(() => clearTimeout(timer));
      }
      throw error;
    }
  }

  /** @param {Response} response */
  #isStream(response) {
    const streamId = response.headers.get("x-stream-id");
    if (response.status !== 200 || !streamId || !response.body) return false;
    if (!(response.headers.get("content-type") ?? "").startsWith("text/event-stream")) return false;
    this.#url ||= streamUrl(this.request, streamId);
    this.#decoder = new Decoder();
    this.#repeats = this.#siblings;
    this.#reader = response.body.getReader();
    this.#connected();
    this.settings.onOpen(streamId);
    return true;
  }

  /** @param {Response} response */
  #isAway(response) {
    this.#reason = LOST[response.status] ?? `the gateway answered ${response.status}`;
    if (AWAY.includes(response.status)) return !response.headers.has("x-stream-id");
    return response.status === 429 && this.#url !== "";
  }

  /** @param {Response} response */
  #streaming(response) {
    const encoder = new TextEncoder();
    const { signal } = this.request;
    const leave = () => void this.#leave();
    signal.addEventListener("abort", leave, { once: true });
    const body = new ReadableStream({
      pull: async (controller) => {
        try {
          const frames = await this.#next();
          if (frames) return controller.enqueue(encoder.encode(frames));
          controller.close();
        } catch (error) {
          controller.error(error);
        }
        signal.removeEventListener("abort", leave);
      },
      cancel: () => {
        signal.removeEventListener("abort", leave);
        return this.#leave();
      },
    }, { highWaterMark: 0 }); // read nothing ahead: so the gateway's flow control sees how fast the program reads
    return copy(response, body);
  }

  /** @returns {Promise<string>} the next whole events; "" at the end */
  async #next() {
    while (!this.#ended) {
      const chunk = await this.#read();
      this.request.signal.throwIfAborted();
      if (chunk) {
        const frames = this.#decoder.feed(chunk).filter((event) => this.#isNew(event)).map(frame).join("");
        if (!frames) continue;
        [this.#attempts, this.#disconnected, this.#since] = [0, 0, null];
        return frames;
      }
      this.settings.onCut(this.#lastId);
      if (!(await this.#reconnect()) && !this.#ended) return this.#giveUp();
    }
    void this.#tidy();
    return "";
  }

  /** Read a body to its end. So its connection can be used again, and the gateway sees no disconnect. */
  async #tidy() {
    const reader = this.#reader;
    const timer = setTimeout(() => void reader?.cancel().catch(() => {}), TIDY);
    try {
      while (reader && !(await reader.read()).done);
    } catch {
      // The stream has ended before, so nothing is lost.
    }
    clearTimeout(timer);
  }

  /** @returns {Promise<Uint8Array | null>} a chunk, or null at a cut */
  async #read() {
    const reader = /** @type {ReadableStreamDefaultReader<Uint8Array>} */ (this.#reader);
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    let timer;
    const silent = new Promise((resolve) => { timer = setTimeout(resolve, this.settings.silence, null); });
    try {
      const result = await Promise.race([reader.read(), silent]);
      if (result?.value) return result.value;
      this.#reason = result ? "the connection ended early" : "the connection fell silent";
    } catch (error) {
      this.#reason = String(error instanceof Error ? error.message : error) || "the connection was lost";
    } finally {
      clearTimeout(timer);
    }
    reader.cancel().catch(() => {});
    return null;
  }

  /** @param {import("./sse.js").ServerEvent} event */
  #isNew(event) {
    if (this.#ended) return false;
    if (event.id !== null && this.#isRepeated(event.id)) return false;
    if (!["", "error"].includes(event.type) && this.#dialect === "chat") {
      this.#dialect = EVENTS.find(([start]) => event.type.startsWith(start))?.[1] ?? "native";
    }
    this.#ended = isTerminal(event, this.#dialect);
    return true;
  }

  /**
   * @param {string} id
   * @returns {boolean} whether this event has come before; if not, its id is noted
   */
  #isRepeated(id) {
    const [last, now] = [Number(this.#lastId), Number(id)];
    if (now < last) {
      this.#repeats = Infinity; // a gateway never goes back: something between it and us repeats, up to the last id
      return true;
    }
    if (now === last && this.#repeats > 0) {
      this.#repeats -= 1;
      return true;
    }
    if (now === last) this.#siblings += 1;
    else [this.#lastId, this.#siblings, this.#repeats] = [id, 0, 0];
    return false;
  }

  /** @returns {Promise<boolean>} whether the stream is connected again */
  async #reconnect() {
    const { signal } = this.request;
    for (let wait = this.#wait(); wait !== null; ) {
      await sleep(wait, signal);
      let response;
      try {
        response = await this.settings.fetch(this.#url, {
          ...this.init, method: "GET", headers: this.#resumeHeaders(), body: undefined, signal,
        });
      } catch (error) {
        signal.throwIfAborted();
        this.#reason = String(error instanceof Error ? error.message : error);
        wait = this.#wait();
        continue;
      }
      if (this.#isStream(response)) return true;
      response.body?.cancel().catch(() => {});
      this.#ended = response.status === 204;
      if (this.#ended || !this.#isAway(response)) return false;
      wait = this.#wait(response);
    }
    return false;
  }

  #resumeHeaders() {
    const headers = new Headers(this.headers);
    for (const name of OWN_TO_POST) headers.delete(name);
    headers.set("accept", "text/event-stream");
    if (this.#lastId) headers.set("last-event-id", this.#lastId);
    return headers;
  }

  #connected() {
    if (this.#since !== null) this.#disconnected += performance.now() - this.#since;
    this.#since = null;
  }

  /**
   * @param {Response} [response] its `Retry-After` may ask for a longer wait
   * @returns {number | null} milliseconds until the next attempt, or null to give up
   */
  #wait(response) {
    const { giveUpAfter, firstWait, longestWait } = this.settings;
    this.#since ??= performance.now();
    const remaining = giveUpAfter - this.#disconnected - (performance.now() - this.#since);
    if (remaining <= 0) return null;
    const atLeast = Math.max(this.#decoder.retry ?? 0, 1000 * (Number(response?.headers.get("retry-after")) || 0));
    const backoff = Math.min(firstWait * 2 ** this.#attempts, longestWait);
    this.#attempts = Math.min(this.#attempts + 1, 16);
    const jitter = Math.random(); // spreads clients after a restart
    return Math.min(Math.max(backoff * (0.5 + jitter / 2), atLeast * (1 + jitter / 4)), remaining);
  }

  /** Abort a stream that the program leaves early, if this program created it: otherwise it would linger. */
  async #leave() {
    if (this.#ended) return;
    this.#ended = true;
    void this.#reader?.cancel().catch(() => {});
    const continues = this.headers.get("x-on-disconnect") === "continue";
    if (!this.#creates || !continues || !this.settings.stopOnAbort) return;
    const headers = new Headers(this.headers);
    for (const name of OWN_TO_POST) headers.delete(name);
    const init = { ...this.init, method: "DELETE", headers, body: undefined, keepalive: true };
    const signal = AbortSignal.timeout(2_000);
    const url = `${this.#url.split("?")[0]}?reason=closed+by+the+client`;
    await this.settings.fetch(url, { ...init, signal }).catch(() => {});
  }

  /** @returns {string} the ending of a stream that cannot be resumed, in the stream's own dialect */
  #giveUp() {
    this.#ended = true;
    const where = this.#lastId ? `after event ${this.#lastId}` : "before its first event";
    const message = `The stream was lost ${where}: ${this.#reason}.`;
    const code = "stream_lost";
    const error = { message, type: "api_error", param: null, code };
    if (this.#dialect === "messages") {
      return write("error", { type: "error", error: { type: "api_error", message: `${message} (${code})` } });
    }
    if (this.#dialect === "responses") {
      const sequence_number = Number(this.#lastId) || 0; // a record's number is one more than its event's
      return write("error", { ...error, type: "error", sequence_number, error });
    }
    if (this.#dialect === "chat") return write("", { error });
    return write("error", { type: "error", message, code, retryable: true, resumable: false })
      + write("done", { type: "done", status: "failed", reason: code });
  }
}

/**
 * @param {string} type
 * @param {object} data
 */
function write(type, data) {
  return frame({ type, data: JSON.stringify(data), id: null });
}

/**
 * Whether this event ends the stream in its dialect. That is `[DONE]` or an error in chat completions, `[DONE]` in
 * Responses (its errors are followed by that, but for one that is no record of the log), `message_stop` or an error in
 * Messages, and `done` in the native dialect.
 *
 * @param {import("./sse.js").ServerEvent} event
 * @param {string} dialect
 */
function isTerminal({ type, data, id }, dialect) {
  if (data === "[DONE]") return true;
  if (type === "error" && (dialect === "messages" || (dialect === "responses" && id === null))) return true;
  if (type) return (dialect === "messages" && type === "message_stop") || (dialect === "native" && type === "done");
  if (!data.includes('"error"')) return false;
  try {
    return Boolean(JSON.parse(data)?.error);
  } catch {
    return false;
  }
}

/**
 * @param {Request} request
 * @param {string} streamId
 */
function streamUrl(request, streamId) {
  if (request.method === "GET") return request.url;
  const url = new URL(request.url);
  for (const [end, replacement] of CREATING) {
    if (!url.pathname.endsWith(end)) continue;
    const query = end === "/api/stream" ? "?format=native" : "";
    return url.origin + url.pathname.slice(0, -end.length) + replacement + streamId + query;
  }
  throw new Error("canResume() lets only these paths through");
}

/**
 * @param {Response} response
 * @param {BodyInit | null} body
 */
function copy(response, body) {
  const { status, statusText, headers, url } = response;
  const result = new Response(body, { status, statusText, headers });
  Object.defineProperty(result, "url", { value: url }); // the constructor cannot set it, and SDKs log it
  return result;
}

/**
 * @template T
 * @param {AbortSignal} signal
 * @param {Promise<T>} promise
 * @returns {Promise<T>} the result of `promise`. Rejects with the signal's reason if that comes first.
 */
async function unlessAborted(signal, promise) {
  signal.throwIfAborted();
  /** @type {() => void} */
  let stop = () => {};
  const aborted = new Promise((_, reject) => { stop = () => reject(signal.reason); });
  signal.addEventListener("abort", stop, { once: true });
  try {
    return await /** @type {Promise<T>} */ (Promise.race([promise, aborted]));
  } finally {
    signal.removeEventListener("abort", stop);
  }
}

/**
 * @param {number} milliseconds
 * @param {AbortSignal} signal
 */
async function sleep(milliseconds, signal) {
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  let timer;
  try {
    await unlessAborted(signal, new Promise((resolve) => { timer = setTimeout(resolve, milliseconds); }));
  } finally {
    clearTimeout(timer);
  }
}
