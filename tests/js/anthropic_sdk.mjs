// Anthropic's SDK with nothing but a base URL: node anthropic_sdk.mjs ROOT MODEL; prints what came.
// The model answers three times well, then with an error, then it breaks off.
import Anthropic from "@anthropic-ai/sdk";

const [baseURL, model] = process.argv.slice(2);
const client = new Anthropic({ baseURL, apiKey: "none", maxRetries: 0 });
const tools = [{ name: "look", input_schema: { type: "object", properties: {} } }];
const body = { model, max_tokens: 100, tools, messages: [{ role: "user", content: "Say it." }] };
const said = { texts: [], kinds: [] };

const stream = client.messages.stream(body);
stream.on("text", (text) => said.texts.push(text));
said.message = await stream.finalMessage();
for await (const event of await client.messages.create({ ...body, stream: true })) said.kinds.push(event.type);
said.whole = await client.messages.create(body);
try {
  await client.messages.create(body);
} catch (error) {
  said.refused = [error.constructor.name, error.status, error.error.error.type];
}
let text = "";
try {
  for await (const event of await client.messages.create({ ...body, stream: true })) text += event.delta?.text ?? "";
} catch (error) {
  said.broken = [text, error.constructor.name, error.error.error.type];
}
said.count = (await client.messages.countTokens({ model, messages: body.messages })).input_tokens;
console.log(JSON.stringify(said));
