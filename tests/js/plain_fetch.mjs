// resumingFetch without any SDK, on the oldest Node: node plain_fetch.mjs BASE_URL MODEL; prints the text that came.
import { makeResumingFetch, readEvents } from "../../server/static/client.js";

const [baseURL, model] = process.argv.slice(2);
const fetch = makeResumingFetch({ firstWait: 10, longestWait: 100 });
const response = await fetch(`${baseURL}/chat/completions`, {
  method: "POST",
  headers: { "content-type": "application/json" },
  body: JSON.stringify({ model, stream: true, messages: [{ role: "user", content: "Tell me." }] }),
});
const texts = [];
for await (const { data } of readEvents(response.body)) {
  const text = data === "[DONE]" ? "" : JSON.parse(data).choices[0]?.delta.content;
  if (text) texts.push(text);
}
console.log(JSON.stringify({ texts }));
