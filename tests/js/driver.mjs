// Plays scripts of this folder one after the other, so that Node, the SDKs and the browser start once: node driver.mjs.
// A line `{script, given}` plays one with these arguments. What it prints, by console.log and once, is the answer.
import { closeBrowser } from "./browser.mjs";
import { nextLine, tell } from "./lines.mjs";

const [program, main] = process.argv;
let count = 0;

for (let line = await nextLine(); line !== undefined; line = await nextLine()) {
  const { script, given } = JSON.parse(line);
  process.argv = [program, main, ...given];
  const printed = new Promise((resolve) => { console.log = resolve; });
  count += 1;
  try {
    await import(`./${script}?${count}`); // a new query evaluates the script anew; what it imports stays as it is
    tell({ said: JSON.parse(await printed) });
  } catch (error) {
    tell({ failed: error.stack ?? String(error) });
  }
}
await closeBrowser();
process.exit(0);
