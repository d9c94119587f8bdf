// The public API of this server, as any client would use it: the model, an answer as it streams, files of an answer.
// Knows no page. Everything goes to the place the page came from, and nowhere else.

/** @typedef {{id: string, score_threshold: number, doubt_threshold: number | null}} Model */
/** @typedef {{box: number[], score: number, area: number, mask?: object, polygons?: number[][]}} Region */
/** @typedef {{id: number, text: string, span: [number, number], regions: Region[], score: number, doubtful?: boolean}} Phrase */
/** @typedef {{version: 1, text: string, image_size: [number, number], phrases: Phrase[], raw: string, model: string, usage: object}} Answer */
/** @typedef {{kind: "text", text: string} | {kind: "phrase", phrase: Phrase} | {kind: "answer", answer: Answer}} Event */

/** What the server says is wrong, in one sentence. */
export class ApiError extends Error {
  /** @param {string} message @param {number} status */
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

let key = "";

/** @param {string} value The API key, kept in this page only. */
export function useKey(value) {
  key = value.trim();
}

/** @param {string} path @param {RequestInit} [options] */
async function call(path, options = {}) {
  const headers = new Headers(options.headers);
  if (key) headers.set("Authorization", `Bearer ${key}`);
  let response;
  try {
    response = await fetch(path, { ...options, headers });
  } catch (error) {
    if (error instanceof DOMException && error.name === "AbortError") throw error;
    throw new ApiError("The server cannot be reached.", 0);
  }
  if (response.ok) return response;
  const body = await response.json().catch(() => null);
  throw new ApiError(body?.error?.message ?? `The server answered ${response.status}.`, response.status);
}

/** @param {string} path @param {unknown} body @param {AbortSignal} [signal] */
const post = (path, body, signal) =>
  call(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body), signal });

/** @returns {Promise<Model>} */
export async function model() {
  return (await (await call("/v1/models")).json()).data[0];
}

/**
 * An answer as it comes.
 * @param {{model: string, messages: object[], threshold: number}} asked
 * @param {AbortSignal} signal Ends it.
 * @returns {AsyncGenerator<Event>}
 */
export async function* ask(asked, signal) {
  const grounding = { threshold: asked.threshold, masks: "both" };
  const body = { model: asked.model, messages: asked.messages, grounding, stream: true };
  const response = await post("/v1/chat/completions", body, signal);
  for await (const data of events(response)) {
    if (data === "[DONE]") return;
    const chunk = JSON.parse(data);
    if (chunk.error) throw new ApiError(chunk.error.message, 500);
    const delta = chunk.choices[0]?.delta ?? {};
    if (delta.content) yield { kind: "text", text: delta.content };
    if (delta.grounding?.phrase) yield { kind: "phrase", phrase: delta.grounding.phrase };
    if (delta.grounding?.answer) yield { kind: "answer", answer: delta.grounding.answer };
  }
}

/** The data of server-sent events. @param {Response} response */
async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let buffer = "";
  while (true) {
    const { value, done } = await reader.read();
    if (done) return;
    buffer += value;
    const parts = buffer.split("\n\n");
    buffer = parts.pop();
    for (const part of parts) if (part.startsWith("data: ")) yield part.slice(6);
  }
}

/** A file of an answer. @param {string} url The picture. @param {Answer} answer @param {string} format @param {string} fileName */
export async function render(url, answer, format, fileName) {
  const body = { image: { url }, answer, format, file_name: fileName };
  return (await post("/v1/render", body)).blob();
}
