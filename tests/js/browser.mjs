// Chromium for the tests: new, with the flags that it needs in a container and no calls home.
import { chromium } from "playwright-core";

export async function openBrowser(executablePath) {
  return chromium.launch({
    executablePath,
    args: [
      "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
      "--disable-background-networking", "--disable-component-update", "--disable-sync",
    ],
  });
}
