// OpenAI's SDK and its helper for Responses: node openai_responses.mjs BASE_URL MODEL [REQUEST [resuming]].
// It prints what came.
import OpenAI from "openai";

import { makeResumingFetch } from "../../server/static/client.js";

const [baseURL, model, request = "{}", resuming] = process.argv.slice(2);
const fetch = resuming ? makeResumingFetch({ firstWait: 10, longestWait: 100 }) : globalThis.fetch;
const client = new OpenAI({ baseURL, apiKey: "none", maxRetries: 0, fetch });
const body = { model, input: "Tell me.", ...JSON.parse(request) };
const said = { numbers: [], text: "" };
try {
  const events = await client.responses.create({ ...body, stream: true });
  for await (const event of events) said.numbers.push(event.sequence_number);
  const helper = client.responses.stream(body);
  helper.on("response.output_text.delta", (event) => { said.text += event.delta; });
  said.final = await helper.finalResponse();
  said.whole = await client.responses.create(body);
} catch (error) {
  said.error = { name: error.constructor.name, message: error.message, code: error.code ?? null };
}
console.log(JSON.stringify(said));
