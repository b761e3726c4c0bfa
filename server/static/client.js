/**
 * Clients whose streams survive broken connections, for browsers and for Node 20 or later.
 *
 *     import OpenAI from "openai";
 *     import { resumingFetch } from "./client.js";
 *
 *     const client = new OpenAI({ baseURL: "http://127.0.0.1:8080/v1", fetch: resumingFetch });
 */

export { StreamEvents } from "./events.js";
export { makeResumingFetch, resumingFetch } from "./resume.js";
export { Decoder, readEvents } from "./sse.js";
