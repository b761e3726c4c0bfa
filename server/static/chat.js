/** The chat: its turns, which are kept in this tab, and the one answer that may be under way. */

import { askForKey, getJson, keyHeaders } from "./access.js";
import { AnswerView, questionView } from "./answer.js";
import { StreamEvents } from "./events.js";
import { randomKey } from "./resume.js";

/**
 * An answer is saved together with the id of its last event. After a reload, reading goes on after that id: nothing is
 * missing, and nothing comes twice.
 *
 * @typedef {import("./answer.js").Part} Part
 * @typedef {{ role: "user", content: string }} Question
 * @typedef {{ role: "assistant", parts: Part[], key: string, id: string, lastEventId: string, over: boolean }} Answer
 * @typedef {{ model: string, turns: (Question | Answer)[] }} Chat
 */

const STORED = "sluiceway.chat";
const SAVE_EVERY = 250; // milliseconds
const NAMES = ["start", "token", "reasoning", "tool_call", "tool_result", "recovery", "error", "gap", "done"];

const element = (/** @type {string} */ id) => /** @type {HTMLElement} */ (document.getElementById(id));
const messages = element("messages");
const prompt = /** @type {HTMLTextAreaElement} */ (element("prompt"));
const model = /** @type {HTMLInputElement} */ (element("model"));
const connection = element("connection");

/** @type {Chat} */
let chat = load();
/** @type {StreamEvents | null} */
let events = null;
let requestHeaders = keyHeaders(); // those of `events`
/** @type {ReturnType<typeof setTimeout> | undefined} */
let saving;
let following = true; // keep the end in view, unless the reader has scrolled away from it

export function startChat() {
  for (const turn of chat.turns) show(turn);
  model.value = chat.model;
  const last = chat.turns.at(-1);
  if (last?.role === "assistant" && !last.over) listen(last);
  follow();
  messages.addEventListener("scroll", () => { following = isNear(); });
  new ResizeObserver(() => { if (following) follow(); }).observe(messages);

  element("composer").addEventListener("submit", (event) => {
    event.preventDefault();
    ask();
  });
  prompt.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    ask();
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && !document.querySelector("dialog[open]")) stop();
  });
  element("stop").addEventListener("click", stop);
  element("clear").addEventListener("click", clear);
  window.addEventListener("pagehide", save);
  window.addEventListener("online", () => say(""));
  window.addEventListener("offline", () => say("Offline: the answer goes on when the network is back"));
  void offerModels();
}

async function offerModels() {
  const { data } = await getJson("v1/models").catch(() => ({ data: [] }));
  const names = data.map((/** @type {{ id: string }} */ { id }) => id);
  element("models").replaceChildren(...names.map((/** @type {string} */ name) => new Option(name, name)));
  model.value ||= names[0] ?? "";
}

function ask() {
  const content = prompt.value.trim();
  if (!content || events) return;
  if (!model.value.trim()) return model.focus();
  chat.model = model.value.trim();
  prompt.value = "";
  /** @type {Question} */
  const question = { role: "user", content };
  /** @type {Answer} */
  const answer = { role: "assistant", parts: [], key: `console-${randomKey()}`, id: "", lastEventId: "", over: false };
  chat.turns.push(question, answer);
  save();
  show(question);
  listen(answer);
  follow();
}

/** @param {Answer} answer a new one, or one that a reload has interrupted */
function listen(answer) {
  const view = new AnswerView(answer.parts);
  const previous = viewOf(answer);
  if (previous) previous.replaceWith(view.element);
  else messages.append(view.element);
  view.busy(true);
  underWay(true);

  const reading = open(answer);
  events = reading;
  for (const name of NAMES) {
    reading.addEventListener(name, (event) => {
      const { data, lastEventId } = /** @type {MessageEvent} */ (event);
      view.add({ ...data, type: name });
      answer.lastEventId = lastEventId;
      answer.over ||= name === "done";
      saveSoon();
      if (following) follow();
    });
  }
  reading.addEventListener("open", () => {
    answer.id = reading.id;
    say("");
    saveSoon();
  });
  reading.addEventListener("cut", () => say("Connection lost, resuming…"));
  reading.addEventListener("end", () => finished(answer, view));
}

/** @param {Answer} answer */
function open(answer) {
  const headers = (requestHeaders = keyHeaders());
  const resume = { giveUpAfter: 300_000, firstWait: 100 };
  if (answer.id) {
    const url = new URL(`v1/streams/${answer.id}?format=native`, document.baseURI);
    return new StreamEvents(url, { headers, lastEventId: answer.lastEventId, resume });
  }
  // The answer has one idempotency key. If a request was cut before the stream's id was known, the next one joins the
  // same stream.
  const body = { model: chat.model, messages: messagesBefore(answer) };
  return new StreamEvents(new URL("api/stream", document.baseURI), {
    body, headers: { ...headers, "idempotency-key": answer.key }, resume,
  });
}

/** @param {Answer} answer whose earlier turns are returned in the form that a model takes */
function messagesBefore(answer) {
  const before = chat.turns.slice(0, chat.turns.indexOf(answer));
  return before.flatMap((turn) => {
    const content = turn.role === "user" ? turn.content : textOf(turn);
    return content ? [{ role: turn.role, content }] : [];
  });
}

/** @param {Answer} answer */
function textOf(answer) {
  return answer.parts.map((part) => (part.type === "token" ? part.content : "")).join("");
}

/**
 * @param {Answer} answer
 * @param {AnswerView} view
 */
function finished(answer, view) {
  events = null;
  const failure = answer.parts.at(-1);
  if (failure?.type === "error" && failure.status === 401) {
    answer.parts.pop();
    return void askForKey(requestHeaders).then(() => listen(answer));
  }
  answer.over = true;
  view.busy(false);
  underWay(false);
  say("");
  save();
}

/** @param {boolean} answering */
function underWay(answering) {
  element("stop").hidden = !answering;
  element("send").hidden = answering;
  /** @type {HTMLButtonElement} */ (element("clear")).disabled = answering;
}

function stop() {
  events?.stop().catch(() => say("The gateway could not be told to stop."));
}

function clear() {
  chat = { model: chat.model, turns: [] };
  messages.replaceChildren();
  save();
  prompt.focus();
}

/** @param {Question | Answer} turn */
function show(turn) {
  messages.append(turn.role === "user" ? questionView(turn.content) : new AnswerView(turn.parts).element);
}

/** @param {Answer} answer */
function viewOf(answer) {
  return messages.children[chat.turns.indexOf(answer)];
}

/** @param {string} text */
function say(text) {
  connection.textContent = text;
}

function isNear() {
  return messages.scrollHeight - messages.scrollTop - messages.clientHeight < 80;
}

function follow() {
  following = true;
  messages.scrollTop = messages.scrollHeight;
}

/** @returns {Chat} */
function load() {
  try {
    const stored = JSON.parse(sessionStorage.getItem(STORED) ?? "");
    if (Array.isArray(stored.turns)) return stored;
  } catch {
    // There is none yet, or another version of the console has stored it.
  }
  return { model: "", turns: [] };
}

function saveSoon() {
  saving ??= setTimeout(save, SAVE_EVERY);
}

function save() {
  clearTimeout(saving);
  saving = undefined;
  try {
    sessionStorage.setItem(STORED, JSON.stringify(chat));
  } catch {
    say("This chat is too long: it will be lost at a reload.");
  }
}
