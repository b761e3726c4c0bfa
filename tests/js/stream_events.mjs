// StreamEvents: node stream_events.mjs URL BODY [STOP_AFTER]; without a body a stream is read again. Prints the events that came, and how often it was cut.
import { StreamEvents } from "../../server/static/client.js";

const [url, body, stopAfter = "0"] = process.argv.slice(2);
const said = { names: [], texts: [], ids: [], cuts: 0, errors: [], gaps: [], count: 0 };
const events = new StreamEvents(url, {
  body: body ? JSON.parse(body) : undefined, resume: { firstWait: 10, longestWait: 100 },
});
for (const name of ["start", "reasoning", "token", "tool_call", "recovery", "error", "gap", "done"]) {
  events.addEventListener(name, ({ data, lastEventId }) => {
    said.count += 1;
    if (said.names.at(-1) !== name) said.names.push(name);
    if (lastEventId && name !== "gap") said.ids.push(Number(lastEventId));
    if (name === "token") said.texts.push(data.content);
    if (name === "error") said.errors.push(data.code);
    if (name === "gap") said.gaps.push(data);
    if (name === "done") said.status = data.status;
    if (name === "token" && said.texts.length === Number(stopAfter)) events.stop();
  });
}
events.addEventListener("cut", () => { said.cuts += 1; });
events.addEventListener("end", () => console.log(JSON.stringify({ ...said, readyState: events.readyState })));
