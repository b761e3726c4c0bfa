// OpenAI's SDK on the plain paths: node openai_plain.mjs BASE_URL MODEL BYTES; prints what came.
import OpenAI, { toFile } from "openai";

const [baseURL, model, size] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey: "token", maxRetries: 0 });
const file = await toFile(Buffer.alloc(Number(size), "s"), "a.wav");
const said = {};

said.embedding = (await client.embeddings.create({ model, input: ["a", "b"], encoding_format: "float" })).data[0].embedding;
said.completion = (await client.completions.create({ model, prompt: "Hi" })).choices[0].text;
said.streamed = "";
for await (const chunk of await client.completions.create({ model, prompt: "Hi", stream: true })) {
  said.streamed += chunk.choices[0].text;
}
said.flagged = (await client.moderations.create({ model, input: "Hi" })).results[0].flagged;
said.image = (await client.images.generate({ model, prompt: "a cat" })).data[0].b64_json;
said.edited = (await client.images.edit({ model, image: file, prompt: "a dog" })).data[0].b64_json;
said.text = (await client.audio.transcriptions.create({ file, model })).text; // the model is behind the file
said.sound = (await (await client.audio.speech.create({ model, voice: "alloy", input: "Hi" })).arrayBuffer()).byteLength;
try {
  await client.embeddings.create({ model: "others", input: "a" });
} catch (error) {
  said.error = [error.constructor.name, error.status, error.code];
}
console.log(JSON.stringify(said));
