/** The chat: the conversation that this tab shows, the list of the others, and the one answer that may be under way. */

import { askForKey, keyHeaders } from "./access.js";
import { AnswerView, questionView } from "./answer.js";
import * as conversations from "./conversations.js";
import { byId, make } from "./elements.js";
import { StreamEvents } from "./events.js";
import { askForModel, chooseModel, chosenModel, offerModels } from "./models.js";
import { randomKey } from "./resume.js";

/**
 * @typedef {import("./conversations.js").Question} Question
 * @typedef {import("./conversations.js").Answer} Answer
 */

const SAVE_EVERY = 250; // milliseconds
const NAMES = ["start", "token", "reasoning", "tool_call", "tool_result", "recovery", "error", "gap", "done"];

const messages = byId("messages");
const prompt = /** @type {HTMLTextAreaElement} */ (byId("prompt"));
const system = /** @type {HTMLTextAreaElement} */ (byId("system"));
const connection = byId("connection");

let chat = conversations.current();
/** @type {StreamEvents | null} */
let events = null;
let requestHeaders = keyHeaders(); // those of `events`
/** @type {ReturnType<typeof setTimeout> | undefined} */
let saving;
let following = true; // keep the end in view, unless the reader has scrolled away from it

export function startChat() {
  showChat();
  messages.addEventListener("scroll", () => { following = isNear(); });
  new ResizeObserver(() => { if (following) follow(); }).observe(messages);

  byId("composer").addEventListener("submit", (event) => {
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
  byId("stop").addEventListener("click", stop);
  byId("clear").addEventListener("click", begin);
  window.addEventListener("pagehide", save);
  window.addEventListener("online", () => say(""));
  window.addEventListener("offline", () => say("Offline: the answer goes on when the network is back"));
  void offerModels();
}

// --- conversations --------------------------------------------------------------------------------------------------

/** Show the conversation `chat`. If its last answer was interrupted, go on with it. */
function showChat() {
  events?.close(); // of another conversation; its stream goes on for `linger` seconds
  events = null;
  underWay(false);
  messages.replaceChildren();
  for (const turn of chat.turns) show(turn);
  if (chat.model) chooseModel(chat.model);
  system.value = chat.system ?? "";
  /** @type {HTMLDetailsElement} */ (byId("system-box")).open = Boolean(chat.system);
  const last = chat.turns.at(-1);
  if (last?.role === "assistant") {
    if (last.over) offerAgain(last);
    else listen(last);
  }
  follow();
  showList();
}

function showList() {
  const entries = conversations.list();
  byId("chats").replaceChildren(...entries.map(({ id, title, updated }) => {
    const open = make("button", "open", title);
    open.setAttribute("aria-current", String(id === chat.id));
    open.title = `${title}\n${new Date(updated).toLocaleString()}`;
    open.addEventListener("click", () => go(id));
    const remove = make("button", "remove", "×");
    remove.setAttribute("aria-label", `Delete “${title}”`);
    remove.addEventListener("click", () => forget(id));
    return make("li", "", open, remove);
  }));
}

/** @param {string} id */
function go(id) {
  save();
  chat = conversations.open(id) ?? conversations.fresh(chosenModel(), "");
  showChat();
  prompt.focus();
  document.dispatchEvent(new CustomEvent("chat-chosen"));
}

/** @param {string} id */
function forget(id) {
  if (id === chat.id) {
    events?.close();
    chat = conversations.fresh(chosenModel(), "");
    conversations.remove(id);
    showChat();
  } else {
    conversations.remove(id);
    showList();
  }
}

/** Begin a new conversation, with the same model and system prompt. */
function begin() {
  save();
  chat = conversations.fresh(chosenModel(), system.value);
  conversations.save(chat); // so that a reload shows this one
  showChat();
  prompt.focus();
}

// --- one answer -----------------------------------------------------------------------------------------------------

function ask() {
  const content = prompt.value.trim();
  if (!content || events) return;
  if (!chosenModel()) return askForModel();
  prompt.value = "";
  /** @type {Question} */
  const question = { role: "user", content };
  chat.turns.push(question);
  show(question);
  answer();
}

/** Ask the model for an answer to the turns so far. */
function answer() {
  chat.model = chosenModel();
  chat.system = system.value;
  /** @type {Answer} */
  const next = { role: "assistant", parts: [], key: `console-${randomKey()}`, id: "", lastEventId: "", over: false };
  chat.turns.push(next);
  save();
  showList();
  listen(next);
  follow();
}

/** @param {Answer} last */
function again(last) {
  if (events || chat.turns.at(-1) !== last) return;
  if (!chosenModel()) return askForModel();
  chat.turns.pop();
  messages.lastElementChild?.remove();
  answer();
}

/** @param {Answer} last */
function offerAgain(last) {
  const button = /** @type {HTMLButtonElement} */ (make("button", "again", "↻ Regenerate"));
  button.type = "button";
  button.addEventListener("click", () => again(last));
  messages.querySelectorAll(".actions button").forEach((old) => old.remove());
  messages.lastElementChild?.querySelector(".actions")?.append(button);
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
      if (events !== reading) return; // another conversation is shown
      const { data, lastEventId } = /** @type {MessageEvent} */ (event);
      view.add({ ...data, type: name });
      answer.lastEventId = lastEventId;
      answer.over ||= name === "done";
      saveSoon();
      if (following) requestAnimationFrame(() => { if (following) follow(); });
    });
  }
  reading.addEventListener("open", () => {
    if (events !== reading) return;
    answer.id = reading.id;
    say("");
    saveSoon();
  });
  reading.addEventListener("cut", () => { if (events === reading) say("Connection lost, resuming…"); });
  reading.addEventListener("end", () => { if (events === reading) finished(answer, view); });
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
  const said = before.flatMap((turn) => {
    const content = turn.role === "user" ? turn.content : textOf(turn);
    return content ? [{ role: turn.role, content }] : [];
  });
  return chat.system?.trim() ? [{ role: "system", content: chat.system }, ...said] : said;
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
  offerAgain(answer);
}

/** @param {boolean} answering */
function underWay(answering) {
  byId("stop").hidden = !answering;
  byId("send").hidden = answering;
  if (answering) messages.querySelectorAll(".actions button").forEach((button) => button.remove());
}

function stop() {
  events?.stop().catch(() => say("The gateway could not be told to stop."));
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

function saveSoon() {
  saving ??= setTimeout(save, SAVE_EVERY);
}

function save() {
  clearTimeout(saving);
  saving = undefined;
  if (chat.turns.length && !conversations.save(chat)) say("The browser has no room left: delete a conversation.");
}
