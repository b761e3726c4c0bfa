/**
 * Decodes Server-Sent Events (WHATWG HTML standard, section 9.2.6): bytes in, whole events out.
 *
 * @typedef {object} ServerEvent
 * @property {string} type the event's name, "" for the default
 * @property {string} data
 * @property {string | null} id the id in the event itself; null if it has none
 */

/** Takes bytes in pieces of any size. An event that is incomplete at the end is never returned. */
export class Decoder {
  /** The last `retry:` of the stream, in milliseconds. @type {number | null} */
  retry = null;
  #text = new TextDecoder();
  #rest = "";
  #type = "";
  /** @type {string[]} */
  #data = [];
  /** @type {string | null} */
  #id = null;

  /**
   * @param {Uint8Array} chunk
   * @returns {ServerEvent[]} the events that `chunk` completes
   */
  feed(chunk) {
    const text = this.#rest + this.#text.decode(chunk, { stream: true });
    // A \r at the end may be half of a \r\n. Keep it until more comes: otherwise there would be an empty line between.
    const half = text.endsWith("\r") ? "\r" : "";
    const lines = (half ? text.slice(0, -1) : text).split(/\r\n|\r|\n/);
    this.#rest = lines.pop() + half;
    const events = [];
    for (const line of lines) {
      const event = line === "" ? this.#dispatch() : this.#take(line);
      if (event) events.push(event);
    }
    return events;
  }

  /** @param {string} line */
  #take(line) {
    const colon = line.indexOf(":");
    const name = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(line[colon + 1] === " " ? colon + 2 : colon + 1);
    if (name === "data") this.#data.push(value);
    else if (name === "event") this.#type = value;
    else if (name === "id" && !value.includes("\0")) this.#id = value;
    else if (name === "retry" && /^[0-9]{1,9}$/.test(value)) this.retry = Number(value);
    return null;
  }

  /** @returns {ServerEvent | null} */
  #dispatch() {
    const event = this.#data.length ? { type: this.#type, data: this.#data.join("\n"), id: this.#id } : null;
    this.#type = "";
    this.#data = [];
    this.#id = null;
    return event;
  }
}

/**
 * @param {ServerEvent} event
 * @returns {string} the event as text on the wire
 */
export function frame({ type, data, id }) {
  const head = (type ? `event: ${type}\n` : "") + (id === null ? "" : `id: ${id}\n`);
  return `${head}data: ${data.replaceAll("\n", "\ndata: ")}\n\n`;
}

/**
 * @param {ReadableStream<Uint8Array>} body
 * @returns {AsyncGenerator<ServerEvent, void>} its events
 */
export async function* readEvents(body) {
  const decoder = new Decoder();
  const reader = body.getReader();
  try {
    for (let read = await reader.read(); !read.done; read = await reader.read()) yield* decoder.feed(read.value);
  } finally {
    await reader.cancel().catch(() => {}); // if the body has failed, the caller already has the error
  }
}
