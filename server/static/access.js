/** Requests with the gateway's key, if it wants one. The user is asked for it once; it is kept in this tab. */

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

/**
 * @param {Record<string, string>} refused the headers of the request that was refused
 * @returns {Promise<void>} resolves when there is a new key. All requests that wait for it share one dialog.
 */
export function askForKey(refused) {
  // The answer to a request with the key before may come late: that key has been replaced already.
  if (!asking && keyHeaders().authorization !== refused.authorization) return Promise.resolve();
  asking ??= new Promise((resolve) => {
    problem.textContent = sessionStorage.getItem(STORED) ? "That key was not taken." : "";
    input.value = "";
    dialog.addEventListener("close", () => {
      asking = null;
      if (!input.value) return void askForKey(keyHeaders()).then(resolve); // closed with Escape: nothing works without a key
      sessionStorage.setItem(STORED, input.value);
      input.value = "";
      resolve();
    }, { once: true });
    dialog.showModal();
  });
  return asking;
}

/**
 * @param {string} path relative to the page, so that the console also works below a path prefix
 * @returns {Promise<any>} the JSON at that path
 */
export async function getJson(path) {
  for (;;) {
    const headers = { accept: "application/json", ...keyHeaders() };
    const response = await fetch(new URL(path, document.baseURI), { headers });
    if (response.status === 401) {
      await askForKey(headers);
      continue;
    }
    if (!response.ok) throw new Error(`${path}: ${response.status}`);
    return response.json();
  }
}
