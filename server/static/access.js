/** Requests with the gateway's key, where it wants one: asked for once, kept in this tab. */

const STORED = "sluiceway.key";
const dialog = /** @type {HTMLDialogElement} */ (document.getElementById("key-dialog"));
const input = /** @type {HTMLInputElement} */ (document.getElementById("key"));
const problem = /** @type {HTMLElement} */ (document.getElementById("key-problem"));

/** @type {Promise<void> | null} */
let asking = null;

/** @returns {Record<string, string>} */
export function keyHeaders() {
  const key = sessionStorage.getItem(STORED);
  return key ? { authorization: `Bearer ${key}` } : {};
}

/** @returns {Promise<void>} when there is a new key; one dialog, however many requests wait for it */
export function askForKey() {
  asking ??= new Promise((resolve) => {
    problem.textContent = sessionStorage.getItem(STORED) ? "That key was not taken." : "";
    input.value = "";
    dialog.addEventListener("close", () => {
      asking = null;
      if (!input.value) return void askForKey().then(resolve); // closed with Escape: nothing works without it
      sessionStorage.setItem(STORED, input.value);
      input.value = "";
      resolve();
    }, { once: true });
    dialog.showModal();
  });
  return asking;
}

/**
 * @param {string} path relative to the page, so that the console also works below a prefix
 * @returns {Promise<any>} its JSON
 */
export async function getJson(path) {
  for (;;) {
    const headers = { accept: "application/json", ...keyHeaders() };
    const response = await fetch(new URL(path, document.baseURI), { headers });
    if (response.status === 401) {
      await askForKey();
      continue;
    }
    if (!response.ok) throw new Error(`${path}: ${response.status}`);
    return response.json();
  }
}
