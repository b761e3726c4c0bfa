// Chromium for the tests, with the flags that it needs in a container and no calls home. It starts once.
let running;

async function start(executablePath) {
  const { chromium } = await import("playwright-core"); // only here: most scripts need no browser
  return chromium.launch({
    executablePath,
    args: [
      "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
      "--disable-background-networking", "--disable-component-update", "--disable-sync",
    ],
  });
}

export function openBrowser(executablePath) {
  running ??= start(executablePath);
  return running;
}

export async function closeBrowser() {
  await (await running)?.close();
}
