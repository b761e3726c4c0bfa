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
  const expected = /ERR_INTERNET_DISCONNECTED|ERR_CONNECTION|ERR_EMPTY|ERR_INCOMPLETE|ERR_NETWORK|ERR_FAILED|status of 4/;
  if (message.type() === "error" && !expected.test(message.text())) problems.push(message.text());
});
const requests = [];
page.on("request", (request) => requests.push(`${request.method()} ${request.url().replace(root, "")}`));

async function ask(model, text) {
  await page.fill("#model", model);
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
    return { final, left, kept: await page.locator("#messages li").count(), model: await page.inputValue("#model") };
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
    const final = await page.evaluate(() => [...document.querySelector("#messages li.answer:last-child .text").childNodes]
      .filter((node) => node.nodeName === "#text").map((node) => node.textContent).join(""));
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
    const order = () => page.evaluate(() =>
      [...document.querySelector("#messages li.answer:last-child .text").childNodes].map((node) => node.nodeName));
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
    return { final: await text() };
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
        overflow: document.documentElement.scrollWidth - document.documentElement.clientWidth,
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
    await page.reload();
    await page.waitForFunction(() => document.querySelectorAll("#ttft circle").length >= 3);
    await picture("ended");
    const reached = [];
    for (let count = 0; count < 16; count += 1) {
      await page.keyboard.press("Tab");
      reached.push(await page.evaluate(() => document.activeElement.id || document.activeElement.className
        || document.activeElement.tagName.toLowerCase()));
    }
    return { ...found, reached };
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
