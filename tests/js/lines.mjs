// Standard input and output of the driver: one line of JSON, or one word, at a time.
import { createInterface } from "node:readline/promises";

const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();

/** Give the next line, or undefined at the end. */
export const nextLine = async () => (await lines.next()).value;

export const tell = (line) => process.stdout.write(`${JSON.stringify(line)}\n`);

/** Ask the test to do something, and wait until it has. */
export async function please(word) {
  tell({ please: word });
  await nextLine();
}
