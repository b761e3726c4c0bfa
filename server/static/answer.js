/**
 * Draws questions and answers. The output of models and tools goes into text nodes only, so it can never become markup.
 * A model's text is drawn as Markdown (markdown.js), everything else as it is.
 *
 * @typedef {Record<string, any> & { type: string }} Part an event of the native protocol; texts in a row are one part
 */

import { make } from "./elements.js";
import { MarkdownView } from "./markdown.js";

const TEXTS = ["token", "reasoning"];

/** @param {string} content */
export function questionView(content) {
  return make("li", "question", make("div", "text", content));
}

/** One answer. It is fed with events, and keeps them in `parts`. */
export class AnswerView {
  #body = make("div", "text");
  #foot = make("p", "foot");
  #actions = make("p", "actions");
  /** @type {{ type: string, node: Text | MarkdownView } | null} the last text; more of the same type is appended to it */
  #text = null;
  /** @type {Map<string, HTMLElement>} tool calls by id */
  #calls = new Map();
  #start = { target: "" };
  #recoveries = 0;

  /** @param {Part[]} parts the events so far; `add` appends to it */
  constructor(parts) {
    this.parts = parts;
    this.element = make("li", "answer", this.#body, this.#foot, this.#actions);
    for (const part of parts) this.#render(part);
    this.#flush();
  }

  /** @param {...HTMLElement} buttons what can be done with the answer now */
  offer(...buttons) {
    this.#actions.replaceChildren(...buttons);
  }

  /** @param {boolean} busy */
  busy(busy) {
    this.element.classList.toggle("busy", busy);
    this.element.setAttribute("aria-busy", String(busy));
    if (!busy) this.#flush();
  }

  /** @param {Part} part */
  add(part) {
    const last = this.parts.at(-1);
    const { type, content } = part;
    if (!TEXTS.includes(type)) this.parts.push(part);
    else if (last?.type === type) last.content += content;
    else this.parts.push({ type, content });
    this.#render(part);
  }

  /** @param {Part} part */
  #render(part) {
    if (TEXTS.includes(part.type)) return this.#append(part.type, part.content);
    if (part.type === "start") this.#start.target = part.target ?? "";
    else if (part.type === "done") this.#done(part);
    else if (part.type === "tool_result") this.#result(part);
    else this.#insert(this.#mark(part));
  }

  /**
   * @param {string} type
   * @param {string} content
   */
  #append(type, content) {
    if (this.#text?.type !== type) {
      this.#flush();
      const node = type === "token" ? new MarkdownView() : document.createTextNode("");
      this.#body.append(node instanceof MarkdownView ? node.element : this.#thinking(node));
      this.#text = { type, node };
    }
    const { node } = this.#text;
    if (node instanceof MarkdownView) node.append(content);
    else node.appendData(content);
  }

  #flush() {
    if (this.#text?.node instanceof MarkdownView) this.#text.node.flush();
  }

  /** @param {Text} node */
  #thinking(node) {
    return make("details", "tool thinking", make("summary", "", "Thinking"), make("pre", "", node));
  }

  /** @param {HTMLElement} mark */
  #insert(mark) {
    // A recovery in the middle of a text stands where it happened, and the text goes on around it.
    if (mark.classList.contains("recovery") && this.#text?.node instanceof MarkdownView) return this.#text.node.mark(mark);
    this.#flush();
    this.#text = null;
    this.#body.append(mark);
  }

  /** @param {Part} part */
  #mark(part) {
    if (part.type === "tool_call") return this.#call(part);
    if (part.type === "recovery") {
      this.#recoveries += 1;
      const seam = part.exact ? "" : ", the seam may show";
      const mark = make("span", "mark recovery", "⟲");
      mark.title = `Recovered here: ${part.strategy} on ${part.target} after ${part.reason}${seam}`;
      mark.append(make("span", "detail", ` ${part.strategy} · ${part.target} · ${part.reason}${seam}`));
      return mark;
    }
    if (part.type === "gap") {
      return make("p", "mark failed gap", `Lost: events ${part.requested} to ${part.earliest - 1} of this answer.`);
    }
    if (part.code === "cancelled") return make("p", "mark", "Stopped.");
    return make("p", "mark failed", `${part.message} (${part.code})`);
  }

  /** @param {Part} part */
  #call(part) {
    const problem = part.incomplete ? "incomplete" : part.error ? "arguments are not JSON" : "";
    const indented = part.arguments === null ? part.raw : JSON.stringify(part.arguments, null, 2);
    const brief = part.arguments === null ? part.raw : JSON.stringify(part.arguments);
    const state = make("span", problem ? "state failed" : "state", problem || (part.server ? "running …" : "for the client"));
    const head = make("summary", "", make("code", "", part.name), make("span", "brief", brief ?? ""), state);
    const call = make("details", "tool", head, make("h3", "", "Arguments"), make("pre", "", indented ?? ""));
    if (part.id) this.#calls.set(part.id, call);
    return call;
  }

  /** @param {Part} part */
  #result(part) {
    const call = this.#calls.get(part.id) ?? this.#call({ type: "tool_call", name: part.name, arguments: {} });
    const failed = part.error !== undefined && part.error !== null;
    const words = failed ? part.error : part.content;
    const text = typeof words === "string" ? words : JSON.stringify(words, null, 2);
    const state = /** @type {HTMLElement} */ (call.querySelector(".state"));
    state.className = failed ? "state failed" : "state";
    state.textContent = `${failed ? "failed after " : ""}${Math.round(part.duration_ms)} ms`;
    call.append(make("h3", "", failed ? "Error" : "Result"), make("pre", failed ? "failed" : "", text));
    if (!call.isConnected && !this.#calls.has(part.id)) this.#insert(call);
  }

  /** @param {Part} part */
  #done(part) {
    const why = part.reason && part.reason !== part.status ? `${part.status}: ${part.reason}` : part.status;
    const facts = [part.status === "complete" ? "" : why, this.#start.target];
    if (part.token_count) facts.push(`${part.token_count} tokens`);
    if (typeof part.ttft_ms === "number") facts.push(`first after ${Math.round(part.ttft_ms)} ms`);
    if (this.#recoveries) facts.push(this.#recoveries === 1 ? "1 recovery" : `${this.#recoveries} recoveries`);
    this.#foot.textContent = facts.filter(Boolean).join(" · ");
  }
}
