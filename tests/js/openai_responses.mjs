// OpenAI's SDK and its helper for Responses: node openai_responses.mjs BASE_URL MODEL [REQUEST]; prints what came.
import OpenAI from "openai";

const [baseURL, model, request = "{}"] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey: "none", maxRetries: 0 });
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
