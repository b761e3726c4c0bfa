// resumingFetch in any dialect: node plain_events.mjs URL BODY [OPTIONS]; prints the events that came.
import { makeResumingFetch, readEvents } from "../../server/static/client.js";

const [url, body, options = "{}"] = process.argv.slice(2);
const fetch = makeResumingFetch({ firstWait: 10, longestWait: 100, ...JSON.parse(options) });
const response = await fetch(url, { method: "POST", headers: { "content-type": "application/json" }, body });
const events = [];
for await (const event of readEvents(response.body)) events.push(event);
console.log(JSON.stringify({ events }));
