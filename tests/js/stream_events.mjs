// StreamEvents: node stream_events.mjs ROOT BODY [STOP_AFTER]; prints the events that came, and how often it was cut.
import { StreamEvents } from "../../server/static/client.js";

const [root, body, stopAfter = "0"] = process.argv.slice(2);
const said = { names: [], texts: [], ids: [], cuts: 0, errors: [], gaps: [] };
const events = new StreamEvents(`${root}/api/stream`, {
  body: JSON.parse(body), resume: { firstWait: 10, longestWait: 100 },
});
for (const name of ["start", "token", "tool_call", "error", "gap", "done"]) {
  events.addEventListener(name, ({ data, lastEventId }) => {
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
