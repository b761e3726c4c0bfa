/**
 * Draws a model's Markdown as elements, piece by piece as it comes.
 *
 * marked only splits the text into tokens. The elements are made here, of a fixed set of names, and everything that the
 * model wrote goes into text nodes. So no text can become markup: HTML in it is shown as it is written, an image is a
 * link, and a link leads to http, https and mailto addresses alone.
 *
 * @typedef {import("./marked.esm.js").Token} Token
 */

import { make } from "./elements.js";
import { Lexer } from "./marked.esm.js";

const DEEPEST = 40; // levels of elements; deeper ones are shown as text
const LONGEST = 400_000; // characters; a longer text is shown as it is written
const PLACE = /\uFFFC(\d+)\uFFFC/; // where a mark stands in the text
const WAYS = ["http:", "https:", "mailto:"];
/** @type {Record<string, string>} */
const ENTITIES = { "&amp;": "&", "&lt;": "<", "&gt;": ">", "&quot;": '"', "&#39;": "'", "&nbsp;": "\u00A0" };
/** @type {Record<string, string>} */
const NAMES = { blockquote: "blockquote", del: "del", em: "em", paragraph: "p", strong: "strong" };

/** A text of Markdown that grows. Only blocks that have changed are drawn again. */
export class MarkdownView {
  element = make("div", "markdown");
  #text = "";
  /** @type {HTMLElement[]} */
  #marks = [];
  /** @type {{ raw: string, node: Node }[]} */
  #drawn = [];
  #waiting = false;

  /** @param {string} text what comes next */
  append(text) {
    this.#text += text.replaceAll("\uFFFC", "\uFFFD"); // this character stands for marks
    this.#soon();
  }

  /** @param {HTMLElement} mark an element that stands in the middle of the text, where it now ends */
  mark(mark) {
    this.#text += `\uFFFC${this.#marks.push(mark) - 1}\uFFFC`;
    this.#soon();
  }

  #soon() {
    if (this.#waiting) return;
    this.#waiting = true;
    requestAnimationFrame(() => this.flush());
  }

  /** Draw what has not been drawn yet. */
  flush() {
    this.#waiting = false;
    const blocks = blocksOf(this.#text);
    let same = 0;
    while (same < blocks.length && this.#drawn[same]?.raw === blocks[same].raw) same += 1;
    for (const { node } of this.#drawn.splice(same)) node.parentNode?.removeChild(node);
    const writer = new Writer(this.#marks);
    for (const block of blocks.slice(same)) {
      const node = writer.one(block, 0);
      this.#drawn.push({ raw: block.raw, node });
      this.element.append(node);
    }
  }
}

/**
 * @param {string} text
 * @returns {Token[]} its blocks; the whole as one text if it cannot be split
 */
function blocksOf(text) {
  try {
    if (text.length <= LONGEST) return Lexer.lex(text, { gfm: true }).filter(({ type }) => type !== "space" && type !== "def");
  } catch {
    // Nested too deeply for the lexer.
  }
  return [{ type: "text", raw: text, text }];
}

class Writer {
  /** @param {HTMLElement[]} marks by their number in the text */
  constructor(marks) {
    this.marks = marks;
  }

  /**
   * @param {any[]} tokens
   * @param {number} depth
   * @returns {Node[]}
   */
  all(tokens, depth) {
    return tokens.map((token) => this.one(token, depth));
  }

  /**
   * @param {any} token
   * @param {number} depth
   * @returns {Node}
   */
  one(token, depth) {
    if (depth > DEEPEST) return this.text(token.raw);
    const inner = () => (token.tokens ? this.all(token.tokens, depth + 1) : [this.text(token.text ?? token.raw)]);
    if (token.type in NAMES) return make(NAMES[token.type], "", ...inner());
    switch (token.type) {
      case "heading": return make(`h${Math.min(token.depth + 2, 6)}`, "", ...inner()); // below the page's own headings
      case "code": return this.code(token);
      case "codespan": return make("code", "", this.text(token.text));
      case "list": return this.list(token, depth);
      case "table": return this.table(token, depth);
      case "link": return this.link(token.href, inner());
      case "image": return this.link(token.href, [this.text(token.text || token.href)]);
      case "checkbox": return document.createTextNode(token.checked ? "☑ " : "☐ ");
      case "hr": return make("hr");
      case "br": return make("br");
      case "space": return document.createTextNode("");
      case "escape": return this.text(token.text);
      case "text": return token.tokens ? fragment(inner()) : this.text(entities(token.text));
      default: return this.text(token.raw); // HTML, above all
    }
  }

  /**
   * @param {string} text
   * @returns {Node} the text, with the marks that stand in it
   */
  text(text) {
    const parts = text.split(PLACE);
    if (parts.length === 1) return document.createTextNode(text);
    return fragment(parts.map((part, index) => (index % 2 ? this.marks[Number(part)] ?? "" : part)));
  }

  /** @param {{ text: string, lang?: string }} token */
  code({ text, lang }) {
    const written = make("code", "", this.text(text));
    const copy = /** @type {HTMLButtonElement} */ (make("button", "copy", "Copy"));
    copy.type = "button";
    copy.addEventListener("click", () => void copied(text, written).then((done) => {
      copy.textContent = done ? "Copied" : "Select it and copy";
      setTimeout(() => { copy.textContent = "Copy"; }, 2_000);
    }));
    return make("div", "code", make("div", "bar", make("span", "", (lang ?? "").split(/\s/)[0]), copy), make("pre", "", written));
  }

  /**
   * @param {any} token
   * @param {number} depth
   */
  list(token, depth) {
    const items = token.items.map((/** @type {any} */ item) => {
      const boxed = item.task && item.tokens[0]?.type !== "checkbox" && !JSON.stringify(item.tokens[0] ?? "").includes('"checkbox"');
      const box = boxed ? [item.checked ? "☑ " : "☐ "] : [];
      return make("li", item.task ? "task" : "", ...box, ...this.all(item.tokens, depth + 2));
    });
    const list = make(token.ordered ? "ol" : "ul", "", ...items);
    if (token.ordered && token.start !== 1) /** @type {HTMLOListElement} */ (list).start = Number(token.start) || 1;
    return list;
  }

  /**
   * @param {any} token
   * @param {number} depth
   */
  table(token, depth) {
    const row = (/** @type {string} */ name, /** @type {any[]} */ cells) =>
      make("tr", "", ...cells.map((cell) => make(name, cell.align ? `to-${cell.align}` : "", ...this.all(cell.tokens, depth + 3))));
    const rows = token.rows.map((/** @type {any[]} */ cells) => row("td", cells));
    return make("div", "scroll", make("table", "", make("thead", "", row("th", token.header)), make("tbody", "", ...rows)));
  }

  /**
   * @param {string} href
   * @param {Node[]} words
   */
  link(href, words) {
    if (!URL.canParse(href) || !WAYS.includes(new URL(href).protocol)) return make("span", "", ...words, ` (${href})`);
    const link = /** @type {HTMLAnchorElement} */ (make("a", "", ...words));
    link.href = href;
    link.target = "_blank";
    link.rel = "noopener noreferrer nofollow";
    link.title = href;
    return link;
  }
}

/** @param {(Node | string)[]} nodes */
function fragment(nodes) {
  return make("span", "", ...nodes);
}

/** @param {string} text */
function entities(text) {
  return text.replace(/&(?:amp|lt|gt|quot|#39|nbsp);/g, (entity) => ENTITIES[entity]);
}

/**
 * @param {string} text
 * @param {HTMLElement} written the element that shows it
 * @returns {Promise<boolean>} whether the text is in the clipboard; if not, it is selected
 */
async function copied(text, written) {
  try {
    await navigator.clipboard.writeText(text.replaceAll(new RegExp(PLACE, "g"), ""));
    return true;
  } catch { // refused, or the page came by plain HTTP from another machine
    getSelection()?.selectAllChildren(written);
    return false;
  }
}
