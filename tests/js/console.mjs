// The console in Chromium: CHROMIUM ROOT SCENARIO [ARGUMENT]; prints what was seen. Each time it is a new user's.
import { openBrowser } from "./browser.mjs";
import { please } from "./lines.mjs";

const [chromium, root, scenario, argument = ""] = process.argv.slice(2);
const browser = await openBrowser(chromium);
const context = await browser.newContext({ viewport: { width: 1280, height: 800 } });
const page = await context.newPage();
page.setDefaultTimeout(40_000);
const problems = [];
page.on("pageerror", (error) => problems.push(error.message));
page.on("console", (message) => {
  const expected = /ERR_INTERNET_DISCONNECTED|ERR_CONNECTION|ERR_EMPTY|ERR_INCOMPLETE|ERR_CONTENT_LENGTH_MISMATCH|ERR_NETWORK|ERR_FAILED|status of 4/;
  if (message.type() === "error" && !expected.test(message.text())) problems.push(message.text());
});
const requests = [];
page.on("request", (request) => requests.push(`${request.method()} ${request.url().replace(root, "")}`));

async function choose(model) {
  await page.waitForSelector("#models option", { state: "attached" }); // the gateway has been asked for its models
  const listed = await page.locator("#models option").evaluateAll((all) => all.map(({ value }) => value));
  if (listed.length > 1) await page.selectOption("#models", listed.includes(model) ? model : "");
  if (!listed.includes(model)) await page.fill("#model", model);
}

const chosen = () => page.evaluate(() => document.getElementById("models").value || document.getElementById("model").value);

async function ask(model, text) {
  await choose(model);
  await page.fill("#prompt", text);
  await page.press("#prompt", "Enter");
}

const text = (which = "last-child") => page.evaluate((selector) =>
  document.querySelector(selector)?.textContent ?? "", `#messages li.answer:${which} .text`);
const foot = () => page.textContent("#messages li.answer:last-child .foot");
const over = (options = {}) => page.waitForSelector("#send", { state: "visible", ...options });
const shows = (words) => page.waitForFunction((wanted) =>
  document.querySelector("#messages li.answer:last-child .text")?.textContent.includes(wanted), words);

const scenarios = {
  async watch() {
    await ask(argument, "Tell me.");
    await shows("w20 ");
    const early = await text();
    await over();
    return { early, final: await text(), foot: await foot() };
  },

  async reload() {
    await ask(argument, "Tell me.");
    await shows("w20 ");
    await page.reload();
    await shows("w40 ");
    await page.reload();
    await over();
    const final = await text();
    await page.reload();
    return { final, kept: await text(), questions: await page.locator("#messages li.question").count() };
  },

  async reload_before_the_first_token() {
    const asked = page.waitForRequest("**/api/stream"); // before it is made: it is waited for in vain afterwards
    await ask(argument, "Tell me.");
    await asked;
    await page.reload();
    await over();
    return { final: await text() };
  },

  async stop() {
    await ask(argument, "Tell me.");
    await shows("w5 ");
    await page.keyboard.press("Escape");
    await over();
    return { final: await text(), foot: await foot() };
  },

  async stop_button() {
    await ask(argument, "Tell me.");
    await shows("w5 ");
    await page.click("#stop");
    await over();
    const final = await text();
    await page.click("#clear");
    const left = await page.locator("#messages li").count();
    await page.reload();
    return { final, left, kept: await page.locator("#messages li").count(), model: await chosen() };
  },

  async offline() {
    await ask(argument, "Tell me.");
    await shows("w10 ");
    await context.setOffline(true);
    await please("cut");
    await page.waitForFunction(() => document.getElementById("connection").textContent.includes("resuming"));
    const during = await text();
    await context.setOffline(false);
    await over();
    return { during, final: await text(), status: await page.textContent("#connection") };
  },

  async cuts() {
    await ask(argument, "Tell me.");
    await over({ timeout: 90_000 }); // each cut costs a second, and a new gateway several on a busy machine
    const final = await page.evaluate(() => {
      const copy = document.querySelector("#messages li.answer:last-child .text").cloneNode(true);
      for (const mark of copy.querySelectorAll(".mark")) mark.remove();
      return copy.textContent;
    });
    return { final, marks: await page.locator("#messages .mark.recovery").count() };
  },

  async gap() {
    await ask(argument, "Tell me.");
    await over();
    const parts = await page.evaluate(() =>
      [...document.querySelector("#messages li.answer:last-child .text").childNodes].map((node) => node.textContent));
    return { mark: await page.textContent("#messages .mark.gap"), around: [parts[0], parts.at(-1)] };
  },

  async events() {
    await ask(argument, "Use the tool.");
    const running = await page.textContent("#messages details:has(code)");
    await over();
    await page.locator("#messages details").first().evaluate((details) => { details.open = true; });
    const order = () => page.evaluate(() => {
      const flat = (node) => (["DIV", "P"].includes(node.nodeName) || node.nodeName === "SPAN" && !node.className
        ? [...node.childNodes].flatMap(flat) : [node.nodeName]);
      return flat(document.querySelector("#messages li.answer:last-child .text"));
    });
    const said = {
      running,
      marks: await page.locator("#messages .mark").allTextContents(),
      tools: await page.locator("#messages details").allTextContents(),
      order: await order(),
      markup: await page.locator("#messages :is(b, i, img, script, a)").count(),
      final: await text(),
    };
    await page.reload();
    return { ...said, again: await order() };
  },

  async key() {
    await page.waitForSelector("#key-dialog[open]");
    await page.fill("#key", "wrong");
    await page.press("#key", "Enter");
    await page.waitForFunction(() => document.getElementById("key-problem").textContent !== "");
    await page.fill("#key", "abc123");
    await page.press("#key", "Enter");
    await page.waitForSelector("#key-dialog:not([open])", { state: "attached" });
    await ask(argument, "Tell me.");
    await over();
    const final = await text();
    await page.click("#streams tr[data-id] button");
    await page.waitForSelector("#streams .details dl");
    return { final, words: await page.textContent("#streams .details") };
  },

  async gateway() {
    await ask(argument, "Tell me.");
    await page.waitForSelector("#streams tr.live .state.streaming");
    await page.waitForSelector("#streams tr.live .state.paused");
    const rows = await page.locator("#streams tr.live").allTextContents();
    await over();
    await page.waitForFunction(() => document.querySelectorAll("#ttft circle").length >= 3);
    await page.waitForFunction(() => document.querySelectorAll("#phases rect.first_token").length >= 1);
    await page.waitForSelector("#circuits .state.closed");
    return {
      rows,
      ttft: await page.textContent("#ttft-now"),
      phases: await page.locator("#phases text.failed").allTextContents(),
      circuits: await page.locator("#circuits li").allTextContents(),
    };
  },

  async looks() {
    const { model, folder } = JSON.parse(argument);
    const found = {};
    const picture = async (name) => { if (folder) await page.screenshot({ path: `${folder}/${name}.png` }); };
    await picture("empty");
    await ask(model, "What is the level at the north gate?\nPlease be brief.");
    await page.waitForSelector("#messages .mark.recovery");
    for (const [name, width, colorScheme] of [["light", 1280, "light"], ["dark", 1280, "dark"], ["phone", 360, "light"]]) {
      await page.setViewportSize({ width, height: 800 });
      await page.emulateMedia({ colorScheme });
      found[name] = await page.evaluate(() => ({
        background: getComputedStyle(document.body).backgroundColor,
        overflow: Math.max(...[document.documentElement, ...document.querySelectorAll("#chat, #messages, #composer, #gateway")]
          .map((one) => one.scrollWidth - one.clientWidth)),
        chat: document.getElementById("chat").checkVisibility(),
        gateway: document.getElementById("gateway").checkVisibility(),
      }));
      await picture(name);
    }
    found.answering = await page.isVisible("#stop");
    await over();
    await page.locator("#messages details").nth(1).evaluate((details) => { details.open = true; });
    await page.locator("#messages details").nth(1).scrollIntoViewIfNeeded();
    await picture("phone-tool");
    await page.click("#show-gateway");
    found.tab = await page.evaluate(() => document.getElementById("gateway").checkVisibility());
    await page.waitForFunction(() => document.querySelectorAll("#ttft circle").length >= 3);
    await picture("phone-gateway");
    await page.click("#theme");
    await page.click("#theme");
    found.chosen = await page.evaluate(() => getComputedStyle(document.body).backgroundColor);
    await page.setViewportSize({ width: 1280, height: 800 });
    await picture("page");
    await page.click("#show-chat");
    await page.reload();
    await page.waitForFunction(() => document.querySelectorAll("#ttft circle").length >= 3);
    await picture("ended");
    const reached = [];
    for (let count = 0; count < 30; count += 1) {
      await page.keyboard.press("Tab");
      reached.push(await page.evaluate(() => document.activeElement.id || document.activeElement.className
        || document.activeElement.tagName.toLowerCase()));
    }
    return { ...found, reached };
  },

  async markdown() {
    await context.grantPermissions(["clipboard-read", "clipboard-write"]);
    await ask(argument, "Show me everything.");
    await over();
    await page.click("#messages .copy");
    const clipboard = await page.evaluate(() => navigator.clipboard.readText());
    return { clipboard, ...await page.evaluate(() => {
      const root = document.querySelector("#messages .markdown");
      const texts = (selector) => [...root.querySelectorAll(selector)].map((one) => one.textContent);
      const attributes = (one) => [...one.attributes].map(({ name }) => name);
      return {
        heading: texts("h3"), items: texts("ul > li"), strong: texts("strong"), cells: texts("td"), code: texts("pre code"),
        links: [...root.querySelectorAll("a")].map((link) => [link.textContent, link.href, link.rel, link.target]),
        names: [...new Set([...root.querySelectorAll("*")].map((one) => one.localName))].sort(),
        attributes: [...new Set([...root.querySelectorAll("*")].flatMap(attributes))].sort(),
        text: root.textContent,
      };
    }) };
  },

  async conversations() {
    await ask(argument, "First question");
    await over();
    await page.click("#clear");
    await ask(argument, "Second question");
    await over();
    const titles = await page.locator("#chats .open").allTextContents();
    await page.click("#chats li:nth-child(2) .open");
    const first = await page.textContent("#messages .question");
    await page.reload();
    const kept = await page.textContent("#messages .question");
    await page.click("#chats li:nth-child(2) .remove");
    return { titles, first, kept, left: await page.locator("#chats .open").allTextContents() };
  },

  async another_conversation_meanwhile() {
    await ask(argument, "Tell me.");
    await shows("w5 ");
    await page.click("#clear");
    const empty = await page.locator("#messages li").count();
    await page.click("#chats .open");
    await over();
    return { empty, final: await text() };
  },

  async regenerate() {
    await page.click("#system-box summary");
    await page.fill("#system", "Be brief.");
    await ask(argument, "Tell me.");
    await over();
    const first = await text();
    await page.click("#messages .again");
    await page.waitForFunction((before) => document.querySelector("#messages li.answer:last-child .text")?.textContent !== before, first);
    await over();
    const second = await text();
    await page.reload();
    return { first, second, count: await page.locator("#messages li").count(), system: await page.inputValue("#system") };
  },

  async models() {
    await page.waitForSelector("#models option", { state: "attached" });
    const names = await page.locator("#models option").evaluateAll((all) => all.map(({ value }) => value));
    const shown = [await page.isVisible("#models"), await page.isVisible("#model")];
    await choose("a name of one's own");
    const typed = await chosen();
    await page.reload();
    return { note: await page.textContent("#models-note"), names, shown, typed };
  },

  async details() {
    await ask(argument, "Tell me.");
    await over();
    await page.waitForFunction(() => /\d/.test(document.querySelector("#streams tr:not(.live) td:nth-child(6)")?.textContent ?? ""));
    const cells = await page.locator("#streams tr:first-child td").allTextContents();
    await page.focus("#streams tr:first-child button");
    await page.keyboard.press("Enter");
    await page.waitForSelector("#streams .details dl");
    const words = await page.textContent("#streams .details");
    await page.waitForResponse((response) => response.url().includes("api/stats")); // the table is drawn again meanwhile
    const open = await page.locator("#streams .details dl").count();
    await page.fill("#filter", "no such model");
    const none = await page.textContent("#streams");
    await page.fill("#filter", `${argument} complete`);
    const found = await page.locator("#streams tr[data-id]").count();
    const first = await page.locator("#ttft .tick[text-anchor=start]").textContent();
    return { cells, words, open, none, found, first };
  },

  async panel() {
    const seen = () => page.evaluate(() => ["sidebar", "chat", "gateway"].filter((id) => document.getElementById(id).checkVisibility()));
    const said = { begin: await seen() };
    await page.click("#close-panel");
    said.closed = await seen();
    await page.reload();
    said.kept = await seen();
    await page.click("#show-gateway");
    said.page = await seen();
    said.title = await page.title();
    await page.reload();
    said.again = await seen();
    await page.click("#show-chat");
    said.back = await seen();
    await page.click("#show-chat");
    said.opened = await seen();
    await page.click("#show-chats");
    said.alone = await seen();
    return said;
  },

  async policy() {
    return page.evaluate(async () => {
      const said = {};
      try { document.getElementById("messages").innerHTML = "<b>x</b>"; said.markup = "taken"; } catch { said.markup = "refused"; }
      const script = document.createElement("script");
      try { script.textContent = "window.ran = true"; document.body.append(script); } catch { /* Trusted Types */ }
      said.ran = window.ran === true;
      said.outside = await fetch("https://example.com/").then(() => "reached", () => "refused");
      return said;
    });
  },

  async event_source() {
    return page.evaluate((url) => new Promise((resolve) => {
      const said = { texts: [], ids: [], opens: 0, calls: [], errors: [], done: [] };
      const source = new EventSource(url);
      source.onopen = () => { said.opens += 1; };
      const listen = (name, keep) => source.addEventListener(name, (event) => {
        if (event.data === undefined) return; // the connection's own `error`
        keep(JSON.parse(event.data));
        said.ids.push(Number(event.lastEventId));
      });
      listen("token", ({ content }) => said.texts.push(content));
      listen("tool_call", ({ name, arguments: given }) => said.calls.push([name, given]));
      listen("error", ({ code }) => said.errors.push(code));
      listen("done", ({ status }) => said.done.push(status));
      source.addEventListener("error", () => { if (source.readyState === EventSource.CLOSED) resolve(said); });
    }), argument);
  },
};

try {
  await page.goto(`${root}/`);
  const said = await scenarios[scenario]();
  const foreign = requests.filter((one) => /^\w+ (https?|wss?):/.test(one) && !one.includes("example.com"));
  console.log(JSON.stringify({ ...said, problems, foreign, requests }));
} finally {
  await context.close();
}
