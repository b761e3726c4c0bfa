// OpenAI's SDK over resumingFetch: node openai_sdk.mjs BASE_URL MODEL [OPTIONS]; prints what came.
import OpenAI from "openai";

import { makeResumingFetch } from "../../server/static/client.js";

const [baseURL, model, options = "{}"] = process.argv.slice(2);
const { resume = {}, request = {}, stopAfter = 0, whole = false, abortAfter = 0, plain = false } = JSON.parse(options);
let cuts = 0;
const resuming = makeResumingFetch({ firstWait: 10, longestWait: 100, onCut: () => { cuts += 1; }, ...resume });
const fetch = plain ? globalThis.fetch : resuming;
const client = new OpenAI({ baseURL, apiKey: "none", fetch, maxRetries: 0 });
const body = { model, messages: [{ role: "user", content: "Tell me." }], ...request };
const said = { texts: [], arguments: "", calls: [], cuts: 0 };
try {
  if (whole) {
    said.texts.push((await client.chat.completions.create(body)).choices[0].message.content);
  } else {
    const controller = new AbortController();
    if (abortAfter) setTimeout(() => controller.abort(), abortAfter);
    const stream = await client.chat.completions.create({ ...body, stream: true }, { signal: controller.signal });
    for await (const chunk of stream) {
      const delta = chunk.choices[0]?.delta ?? {};
      if (delta.content) said.texts.push(delta.content);
      for (const call of delta.tool_calls ?? []) {
        said.arguments += call.function?.arguments ?? "";
        said.calls[call.index] = (said.calls[call.index] ?? "") + (call.function?.arguments ?? "");
      }
      if (stopAfter && said.texts.length === stopAfter) break;
    }
  }
} catch (error) {
  said.error = { name: error.constructor.name, message: error.message, code: error.code ?? null };
}
said.cuts = cuts;
console.log(JSON.stringify(said));
