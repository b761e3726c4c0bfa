/** The choice of a model: one that the gateway lists, or any other name, which is typed. */

import { getJson } from "./access.js";
import { byId } from "./elements.js";

const OTHER = ""; // the value of the entry that asks for a name; no model is called so

const list = /** @type {HTMLSelectElement} */ (byId("models"));
const input = /** @type {HTMLInputElement} */ (byId("model"));
const note = byId("models-note");

/** List what the gateway offers. If that is nothing, say so, and leave the field for a name. */
export async function offerModels() {
  list.addEventListener("change", () => {
    show();
    if (list.value === OTHER) input.focus();
  });
  /** @type {string[]} */
  let names = [];
  try {
    const { data } = await getJson("v1/models");
    names = data.map((/** @type {{ id: string }} */ { id }) => id);
    note.textContent = names.length ? "" : "The upstreams list no models: type a model's name.";
  } catch {
    note.textContent = "The models cannot be listed now: type a model's name.";
  }
  const wanted = chosenModel(); // of the conversation, or typed meanwhile
  list.replaceChildren(...names.map((name) => new Option(name, name)), new Option("Another name …", OTHER));
  chooseModel(wanted || names[0] || "");
}

/** @returns {string} the model that is chosen; "" if none is */
export function chosenModel() {
  return (list.value === OTHER ? input.value : list.value).trim();
}

/** @param {string} name */
export function chooseModel(name) {
  const listed = [...list.options].some(({ value }) => value !== OTHER && value === name);
  list.value = listed ? name : OTHER;
  input.value = listed ? "" : name;
  show();
}

/** Let the user give a name, where there is none yet. */
export function askForModel() {
  (input.hidden ? list : input).focus();
}

function show() {
  list.hidden = list.options.length < 2; // nothing is listed
  input.hidden = list.value !== OTHER;
}
