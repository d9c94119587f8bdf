// The page: a picture, a conversation about it, and what ties one to the other. A client of the public API.

import { ApiError, ask, model, render, useKey } from "./api.js";
import { AnswerView } from "./answer.js";
import { button, byId, element } from "./dom.js";
import { dataUrl, download, pictureIn } from "./files.js";
import { Pointing } from "./pointing.js";
import { Stage } from "./stage.js";

const FLOOR = 0.1; // scores below are not asked for; the slider begins here
const NUMBERED = /\[(\d+)\]/g;

const picture = byId("picture", HTMLElement);
const turns = byId("turns", HTMLOListElement);
const question = byId("question", HTMLTextAreaElement);
const send = byId("send", HTMLButtonElement);
const stop = byId("stop", HTMLButtonElement);
const threshold = byId("threshold", HTMLInputElement);
const status = byId("status", HTMLElement);
const file = byId("file", HTMLInputElement);
const dialog = byId("key-dialog", HTMLDialogElement);

/** @type {import("./api.js").Model | null} */
let served = null;
let url = "";
let fileName = "picture.png";
/** @type {object[]} The dialogue as the server is told it. */
let messages = [];
/** @type {AbortController | null} */
let writing = null;
/** @type {AnswerView | null} Whose regions are on the picture. */
let current = null;
/** @type {AnswerView[]} */
let views = [];

const stage = new Stage(byId("stage", HTMLElement), byId("photo", HTMLImageElement), (index) => current && light(current, index ?? current.pinned));
const pointing = new Pointing(byId("stage", HTMLElement), stage, (added) => {
  if (added) mention(`[${added.number}]`);
  listRegions();
});
pointing.use("look");

/** @param {AnswerView} view @param {number | null} index */
function light(view, index) {
  if (view !== current) show(view);
  view.light(index);
  stage.light(index);
}

/** @param {AnswerView} view */
function show(view) {
  current?.light(null);
  current = view;
  stage.draw(view.shown);
}

let silence = 0;

/** @param {string} text */
function say(text) {
  status.textContent = text;
  clearTimeout(silence);
  silence = setTimeout(() => {
    if (!writing) status.textContent = "";
  }, 6000);
}

async function connect() {
  try {
    served = await model();
    const name = served.id.split("/").pop();
    byId("model", HTMLElement).textContent = `model ${name}`;
    threshold.value = String(Math.max(served.score_threshold, FLOOR));
    thresholdChanged();
    ready();
  } catch (error) {
    report(error);
  }
}

/** @param {unknown} error */
function report(error) {
  if (error instanceof ApiError && error.status === 401) dialog.showModal();
  say(error instanceof Error ? error.message : String(error));
}

dialog.addEventListener("close", () => {
  useKey(byId("key", HTMLInputElement).value);
  say("");
  connect();
});

function ready() {
  send.disabled = !served || !url || writing !== null;
}

// The picture

/** @param {Blob} blob @param {string} name */
async function take(blob, name) {
  try {
    url = await dataUrl(blob);
    fileName = name;
    forget();
    byId("start", HTMLElement).hidden = true;
    byId("work", HTMLElement).hidden = false;
    await stage.show(url);
    question.focus();
    say("");
  } catch (error) {
    url = "";
    byId("start", HTMLElement).hidden = false;
    byId("work", HTMLElement).hidden = true;
    report(error instanceof DOMException ? new Error("This file is no picture that the browser can read.") : error);
  }
  ready();
}

/** Begin a new dialogue. */
function forget() {
  writing?.abort();
  [messages, views, current] = [[], [], null];
  turns.replaceChildren();
  pointing.clear();
  byId("hint", HTMLElement).hidden = false;
}

byId("choose", HTMLElement).addEventListener("click", () => file.click());
byId("another", HTMLElement).addEventListener("click", () => file.click());
file.addEventListener("change", () => {
  const [chosen] = file.files ?? [];
  if (chosen) take(chosen, chosen.name);
  file.value = "";
});
for (const example of document.querySelectorAll("[data-example]"))
  example.addEventListener("click", async () => {
    const name = `${example.getAttribute("data-example")}.jpg`;
    take(await (await fetch(`/web/${name}`)).blob(), name);
  });
document.addEventListener("paste", (event) => {
  const pasted = pictureIn(event.clipboardData);
  if (pasted) take(pasted, pasted.name || "pasted.png");
});
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  picture.classList.add("over");
});
document.addEventListener("dragleave", () => picture.classList.remove("over"));
document.addEventListener("drop", (event) => {
  event.preventDefault();
  picture.classList.remove("over");
  const dropped = pictureIn(event.dataTransfer);
  if (dropped) take(dropped, dropped.name);
  else say("That is no picture.");
});

// Pointing

for (const tool of document.querySelectorAll("[name=tool]"))
  tool.addEventListener("change", () => pointing.use(/** @type {HTMLInputElement} */ (tool).value));
window.addEventListener("resize", () => url && pointing.draw());

/** Put a region's number where the question is being written. @param {string} text */
function mention(text) {
  const { selectionStart: start, selectionEnd: end, value } = question;
  const before = value.slice(0, start);
  question.setRangeText((before && !/\s$/.test(before) ? " " : "") + text, start, end, "end");
}

function listRegions() {
  byId("regions", HTMLElement).replaceChildren(
    ...pointing.regions.map((one) => {
      const remove = button("×", () => pointing.remove(one.number), `Remove region ${one.number}`);
      return element("li", { class: "chip" }, `[${one.number}] ${one.kind}`, remove);
    }),
  );
}

/** The parts of a question: its words with a place for each region, and the regions in the order of their places. */
function partsOf(/** @type {string} */ words) {
  const known = new Map(pointing.regions.map((one) => [one.number, one.part]));
  const missing = [...known.keys()].filter((number) => !words.includes(`[${number}]`));
  if (known.size && missing.length === known.size) words += ` ${missing.map((number) => `[${number}]`).join(" ")}`;
  /** @type {object[]} */
  const regions = [];
  const text = words.replace(NUMBERED, (said, number) => {
    const part = known.get(Number(number));
    if (!part) return said;
    regions.push(part);
    return "<region>";
  });
  return { words, parts: [{ type: "text", text }, ...regions] };
}

// The conversation

byId("ask", HTMLFormElement).addEventListener("submit", (event) => {
  event.preventDefault();
  if (send.disabled) return;
  const { words, parts } = partsOf(question.value.trim() || "Describe the image.");
  const answers = element("div", { class: "answers" });
  turns.append(element("li", {}, element("p", { class: "asked" }, words), answers));
  question.value = "";
  pointing.clear();
  byId("hint", HTMLElement).hidden = true;
  answer(answers, "", words, parts);
});
question.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  byId("ask", HTMLFormElement).requestSubmit();
});
stop.addEventListener("click", () => writing?.abort());

/**
 * Ask, and write the answer as it comes.
 * @param {HTMLElement} place @param {string} title @param {string} words @param {object[]} parts
 */
async function answer(place, title, words, parts) {
  if (!served || writing) return;
  const control = (writing = new AbortController());
  const view = new AnswerView(title, { light, notThere, save });
  view.filter(Number(threshold.value));
  views.push(view);
  place.append(view.root);
  show(view);
  ready();
  stop.hidden = false;
  say("Answering …");
  const image = messages.length ? [] : [{ type: "image_url", image_url: { url } }];
  const asked = { role: "user", content: [...image, ...parts] };
  try {
    const wanted = { model: served.id, messages: [...messages, asked], threshold: Math.min(FLOOR, served.score_threshold) };
    for await (const event of ask(wanted, control.signal)) {
      if (event.kind === "text") view.addText(event.text);
      else if (event.kind === "phrase") {
        view.addPhrase(event.phrase);
        if (current === view) stage.draw(view.shown);
      } else {
        view.finish(event.answer);
        view.words = words;
        const { raw, version } = event.answer;
        messages = [...wanted.messages, { role: "assistant", content: event.answer.text, grounding: { version, raw } }];
      }
    }
    if (current === view) show(view);
    say(view.answer ? summary(view) : "");
  } catch (error) {
    if (control.signal.aborted) {
      view.finish(null);
      say("Stopped; this answer is not part of the conversation.");
    } else {
      view.fail(error instanceof Error ? error.message : String(error));
      report(error);
    }
  } finally {
    if (writing === control) writing = null;
    stop.hidden = true;
    ready();
    view.root.scrollIntoView({ block: "nearest" });
  }
}

/** @param {AnswerView} view */
function summary(view) {
  const found = view.shown.filter((phrase) => phrase.regions.length).length;
  return `Answered: ${found} of ${view.phrases.length} phrases found in the picture.`;
}

/** Ask again without a thing, and show both answers. @param {AnswerView} view @param {import("./api.js").Phrase} phrase */
function notThere(view, phrase) {
  const thing = phrase.text.replace(/^(an?|the|some|many|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve)\s+/i, "");
  const verb = phrase.regions.length > 1 || /[^s]s$/i.test(thing) ? "are" : "is";
  const words = `There ${verb} no ${thing}. ${view.words ?? "Describe the image."}`.replace(/\s*\[\d+\]/g, "");
  const place = /** @type {HTMLElement} */ (view.root.parentElement);
  place.classList.add("two");
  if (!view.root.querySelector("h2")) view.root.prepend(element("h2", {}, "Before"));
  answer(place, `Without “${thing}”`, words, [{ type: "text", text: words }]);
}

function thresholdChanged() {
  const value = Number(threshold.value);
  byId("threshold-value", HTMLElement).textContent = value.toFixed(2);
  for (const view of views) view.filter(value);
  if (current) stage.draw(current.shown);
}
threshold.addEventListener("input", thresholdChanged);

/** @param {AnswerView} view @param {string} format */
async function save(view, format) {
  if (!view.answer) return;
  const phrases = view.shown.map(({ regions, ...phrase }) => ({ ...phrase, regions: regions.map(({ polygons, ...region }) => region) }));
  const shown = { ...view.answer, phrases };
  const base = fileName.replace(/\.[^.]*$/, "") || "picture";
  try {
    if (format === "text") {
      await navigator.clipboard.writeText(shown.text);
      return say("Copied.");
    }
    const json = new Blob([`${JSON.stringify(shown)}\n`], { type: "application/json" });
    const blob = format === "json" ? json : await render(url, shown, format, fileName);
    const ending = format === "coco" ? "coco.json" : format;
    download(blob, `${base}.${ending}`);
    say(`Downloaded ${base}.${ending}`);
  } catch (error) {
    report(error);
  }
}

connect();
