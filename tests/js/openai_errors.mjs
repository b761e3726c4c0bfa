// OpenAI's SDK with nothing but a base URL: node openai_errors.mjs BASE_URL MODEL NUMBER_OF_ERRORS; prints what came.
import OpenAI from "openai";

const [baseURL, model, count] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey: "none", maxRetries: 2 });
const body = { model, messages: [{ role: "user", content: "Tell me." }] };
const stream = () => client.chat.completions.create({ ...body, stream: true, stream_options: { include_usage: true } });
const said = { errors: [] };

said.whole = (await client.chat.completions.create(body)).choices[0].message.content;
for await (const chunk of await stream()) said.usage = chunk.usage?.completion_tokens;
for (let index = 0; index < Number(count); index += 1) {
  try {
    for await (const _ of await stream()) throw new Error("a chunk came");
  } catch (error) {
    said.errors.push([error.constructor.name, error.status, error.code]);
  }
}
let text = "";
try {
  for await (const chunk of await stream()) text += chunk.choices[0]?.delta.content ?? "";
} catch (error) {
  said.middle = [text, error.constructor.name, error.code];
}
text = "";
for await (const chunk of await stream()) {
  text += chunk.choices[0]?.delta.content ?? "";
  if (text.endsWith("tok3 ")) break;
}
said.left = text;
console.log(JSON.stringify(said));
