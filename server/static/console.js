/** The console: a chat on the left, the gateway's figures on the right. */

import { startChat } from "./chat.js";
import { startGateway } from "./gateway.js";

const main = /** @type {HTMLElement} */ (document.querySelector("main"));
const THEMES = ["system", "light", "dark"];

/** @param {string} theme */
function show(theme) {
  document.documentElement.dataset.theme = theme;
  /** @type {HTMLElement} */ (document.querySelector("#theme span")).textContent = theme;
}

show(localStorage.getItem("sluiceway.theme") ?? "system");
document.getElementById("theme")?.addEventListener("click", () => {
  const next = THEMES[(THEMES.indexOf(document.documentElement.dataset.theme ?? "") + 1) % THEMES.length];
  localStorage.setItem("sluiceway.theme", next);
  show(next);
});

const views = ["chat", "gateway"]; // a narrow screen shows one at a time
for (const view of views) {
  document.getElementById(`show-${view}`)?.addEventListener("click", () => {
    main.dataset.view = view;
    for (const other of views) {
      document.getElementById(`show-${other}`)?.setAttribute("aria-pressed", String(other === view));
    }
  });
}

startChat();
startGateway();
