// LangChain's ChatOpenAI over resumingFetch: node langchain.mjs BASE_URL MODEL; prints the text that came.
import { ChatOpenAI } from "@langchain/openai";

import { makeResumingFetch } from "../../server/static/client.js";

const [baseURL, model] = process.argv.slice(2);
const fetch = makeResumingFetch({ firstWait: 10, longestWait: 100 });
const chat = new ChatOpenAI({ model, apiKey: "none", maxRetries: 0, configuration: { baseURL, fetch } });
const texts = [];
for await (const chunk of await chat.stream("Tell me.")) if (chunk.content) texts.push(chunk.content);
console.log(JSON.stringify({ texts }));
