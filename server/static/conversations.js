/**
 * The conversations, which are kept in this browser and nowhere else. Each is saved under a key of its own, so that a
 * growing answer does not write the others again. A tab remembers which one it shows.
 *
 * An answer is saved together with the id of its last event. After a reload, reading goes on after that id: nothing is
 * missing, and nothing comes twice.
 *
 * @typedef {import("./answer.js").Part} Part
 * @typedef {{ role: "user", content: string }} Question
 * @typedef {{ role: "assistant", parts: Part[], key: string, id: string, lastEventId: string, over: boolean }} Answer
 * @typedef {{ id: string, model: string, system: string, turns: (Question | Answer)[] }} Conversation
 * @typedef {{ id: string, title: string, updated: number }} Entry
 */

import { randomKey } from "./resume.js";

const INDEX = "sluiceway.chats";
const PREFIX = "sluiceway.chat.";
const CURRENT = "sluiceway.current";
const KEPT = 50; // conversations; the oldest is forgotten
const TITLE = 60; // characters

/** @returns {Entry[]} newest first */
export function list() {
  const entries = parsed(localStorage.getItem(INDEX));
  return Array.isArray(entries) ? entries : [];
}

/** @returns {Conversation} the one that this tab has shown, else a new one */
export function current() {
  const id = sessionStorage.getItem(CURRENT);
  return (id && open(id)) || fresh("", "");
}

/**
 * @param {string} id
 * @returns {Conversation | null}
 */
export function open(id) {
  const conversation = parsed(localStorage.getItem(PREFIX + id));
  if (!Array.isArray(conversation?.turns)) return null;
  sessionStorage.setItem(CURRENT, id);
  return conversation;
}

/**
 * @param {string} model
 * @param {string} system
 * @returns {Conversation} an empty one; it is in the list as soon as something is asked
 */
export function fresh(model, system) {
  forgetEmpty();
  const id = randomKey();
  sessionStorage.setItem(CURRENT, id);
  return { id, model, system, turns: [] };
}

/**
 * @param {Conversation} conversation
 * @returns {boolean} whether there was room
 */
export function save(conversation) {
  try {
    localStorage.setItem(PREFIX + conversation.id, JSON.stringify(conversation));
    const question = conversation.turns.find(({ role }) => role === "user");
    if (!question || question.role !== "user") return true;
    const title = question.content.replace(/\s+/g, " ").slice(0, TITLE);
    const others = list().filter(({ id }) => id !== conversation.id);
    for (const { id } of others.splice(KEPT - 1)) localStorage.removeItem(PREFIX + id);
    localStorage.setItem(INDEX, JSON.stringify([{ id: conversation.id, title, updated: Date.now() }, ...others]));
    return true;
  } catch {
    return false; // the browser's room is used up
  }
}

/** @param {string} id */
export function remove(id) {
  localStorage.removeItem(PREFIX + id);
  localStorage.setItem(INDEX, JSON.stringify(list().filter((entry) => entry.id !== id)));
}

/** Conversations that were begun and never used are in no list. */
function forgetEmpty() {
  const listed = new Set(list().map(({ id }) => PREFIX + id));
  for (const key of Object.keys(localStorage)) {
    if (key.startsWith(PREFIX) && !listed.has(key)) localStorage.removeItem(key);
  }
}

/** @param {string | null} text */
function parsed(text) {
  try {
    return JSON.parse(text ?? "null");
  } catch {
    return null; // another version of the console has stored it
  }
}
