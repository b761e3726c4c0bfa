/** The console: the conversations, a chat, and the gateway's figures. */

import { startChat } from "./chat.js";
import { byId } from "./elements.js";
import { startGateway } from "./gateway.js";

const main = /** @type {HTMLElement} */ (document.querySelector("main"));
const THEMES = ["system", "light", "dark"];

/** @param {string} theme */
function show(theme) {
  document.documentElement.dataset.theme = theme;
  /** @type {HTMLElement} */ (document.querySelector("#theme span")).textContent = theme;
}

show(localStorage.getItem("sluiceway.theme") ?? "system");
byId("theme").addEventListener("click", () => {
  const next = THEMES[(THEMES.indexOf(document.documentElement.dataset.theme ?? "") + 1) % THEMES.length];
  localStorage.setItem("sluiceway.theme", next);
  show(next);
});

// The gateway's figures are a panel beside the chat, which can be closed, and a page of their own at #gateway.
const PANEL = "sluiceway.panel";
const NARROW = matchMedia("(max-width: 56rem)");

function route() {
  const view = location.hash === "#gateway" ? "gateway" : "chat";
  main.dataset.view = view;
  for (const other of ["chat", "gateway"]) byId(`show-${other}`).setAttribute("aria-pressed", String(other === view));
  document.title = view === "gateway" ? "Gateway · Sluiceway" : "Sluiceway";
}

/** @param {boolean} open */
function panel(open) {
  main.dataset.panel = open ? "open" : "closed";
  localStorage.setItem(PANEL, main.dataset.panel);
}

// Beside the chat the list is open until it is closed. On a narrow screen it stands in the chat's place when asked for.
const listKey = () => (NARROW.matches ? "drawer" : "chats");

/** @param {boolean} open */
function sidebar(open) {
  main.dataset[listKey()] = open ? "open" : "closed";
  tellSidebar();
}

function tellSidebar() {
  byId("show-chats").setAttribute("aria-expanded", String(main.dataset[listKey()] === "open"));
}

byId("show-chat").addEventListener("click", () => {
  if (main.dataset.view === "chat" && !NARROW.matches) panel(main.dataset.panel === "closed");
  location.hash = "";
});
byId("show-gateway").addEventListener("click", () => { location.hash = "gateway"; });
byId("close-panel").addEventListener("click", () => {
  if (main.dataset.view === "gateway") location.hash = "";
  else panel(false);
});
byId("show-chats").addEventListener("click", () => {
  if (main.dataset.view === "gateway") location.hash = "";
  sidebar(main.dataset[listKey()] === "closed");
});
document.addEventListener("chat-chosen", () => { if (NARROW.matches) sidebar(false); });
byId("clear").addEventListener("click", () => { if (NARROW.matches) sidebar(false); });
window.addEventListener("hashchange", route);
NARROW.addEventListener("change", tellSidebar);
panel(localStorage.getItem(PANEL) !== "closed");
main.dataset.chats = "open";
main.dataset.drawer = "closed";
tellSidebar();
route();

startChat();
startGateway();
