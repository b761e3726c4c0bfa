// OpenAI's SDK for Responses over resumingFetch: BASE_URL MODEL [OPTIONS]; prints the events that came.
import OpenAI from "openai";

import { makeResumingFetch } from "../../server/static/client.js";

const [baseURL, model, options = "{}"] = process.argv.slice(2);
const { resume = {}, helper = false, stopAfter = 0, background = false } = JSON.parse(options);
let cuts = 0;
const fetch = makeResumingFetch({ firstWait: 10, longestWait: 100, onCut: () => { cuts += 1; }, ...resume });
const client = new OpenAI({ baseURL, apiKey: "none", fetch, maxRetries: 0 });
const body = { model, input: "Tell me.", background };
const said = { events: [], again: [] };
try {
  const stream = helper ? client.responses.stream(body) : await client.responses.create({ ...body, stream: true });
  for await (const event of stream) {
    said.events.push(event);
    if (said.events.length === stopAfter) break;
  }
  if (!stopAfter) {
    const query = { stream: true, starting_after: 4 };
    for await (const event of await client.responses.retrieve(said.events[0].response.id, query)) said.again.push(event);
  }
} catch (error) {
  said.error = { name: error.constructor.name, message: error.message, code: error.code ?? null };
}
said.cuts = cuts;
console.log(JSON.stringify(said));
