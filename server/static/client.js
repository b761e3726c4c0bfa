/**
 * Clients that never notice a broken connection, for browsers and for Node from 20 on.
 *
 *     import OpenAI from "openai";
 *     import { resumingFetch } from "./client.js";
 *
 *     const client = new OpenAI({ baseURL: "http://127.0.0.1:8080/v1", fetch: resumingFetch });
 */

export { StreamEvents } from "./events.js";
export { makeResumingFetch, resumingFetch } from "./resume.js";
export { Decoder, readEvents } from "./sse.js";
