// The decoder on one input: node decoder.mjs SIZE HEX; prints the events, fed SIZE bytes at a time (0: all at once).
import { Decoder } from "../../server/static/client.js";

const [size, hex] = process.argv.slice(2);
const bytes = Buffer.from(hex, "hex");
const decoder = new Decoder();
const events = [];
for (let at = 0; at < bytes.length; at += Number(size) || bytes.length) {
  events.push(...decoder.feed(bytes.subarray(at, at + (Number(size) || bytes.length))));
}
console.log(JSON.stringify({ events, retry: decoder.retry }));
