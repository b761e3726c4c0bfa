// Vercel's AI SDK over resumingFetch: node vercel_ai.mjs BASE_URL MODEL [plain]; prints text and tool calls.
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { jsonSchema, streamText, tool } from "ai";

import { makeResumingFetch } from "../../server/static/client.js";

const [baseURL, model, plain] = process.argv.slice(2);
const fetch = plain ? globalThis.fetch : makeResumingFetch({ firstWait: 10, longestWait: 100 });
const gateway = createOpenAICompatible({ name: "sluiceway", baseURL, apiKey: "none", fetch });
const search = tool({ inputSchema: jsonSchema({ type: "object", properties: { query: { type: "string" } } }) });
const said = { texts: [], calls: [], errors: [] };
const result = streamText({
  model: gateway(model), prompt: "Tell me.", tools: { search }, maxRetries: 0, onError: () => {},
});
for await (const part of result.fullStream) {
  if (part.type === "text-delta") said.texts.push(part.text);
  if (part.type === "tool-call") said.calls.push({ name: part.toolName, input: part.input });
  if (part.type === "error") said.errors.push(String(part.error?.message ?? part.error));
}
console.log(JSON.stringify(said));
