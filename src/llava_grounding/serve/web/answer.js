// One answer on the page: its words as they come, its phrases as they are grounded, what was found, files of it.
// Knows no server; what is to be done is handed in.

import { colorOf } from "./colors.js";
import { button, element } from "./dom.js";

/** @typedef {import("./api.js").Answer} Answer */
/** @typedef {import("./api.js").Phrase} Phrase */
/**
 * @typedef {object} Actions
 * @property {(view: AnswerView, index: number | null) => void} light
 * @property {(view: AnswerView, phrase: Phrase) => void} notThere
 * @property {(view: AnswerView, format: string) => void} save
 */

export class AnswerView {
  /** @param {string} title Above it; empty for none. @param {Actions} actions */
  constructor(title, actions) {
    this.actions = actions;
    this.text = "";
    /** @type {Phrase[]} */
    this.phrases = [];
    /** @type {Answer | null} */
    this.answer = null;
    this.threshold = 0;
    /** @type {number | null} */
    this.pinned = null;
    this.said = element("p", { class: "said writing" });
    this.found = element("ul", { class: "found", "aria-label": "Phrases and what they name" });
    this.unsure = element("p", { class: "unsure" });
    this.files = element("div", { class: "files" });
    const heading = title ? [element("h2", {}, title)] : [];
    this.root = element("article", { class: "answer" }, ...heading, this.said, this.found, this.unsure, this.files);
  }

  /** @param {string} text */
  addText(text) {
    this.text += text;
    this.#write();
  }

  /** @param {Phrase} phrase */
  addPhrase(phrase) {
    this.phrases.push(phrase);
    this.#write();
  }

  /** @param {Answer | null} answer None if it was stopped or failed. */
  finish(answer) {
    this.said.classList.remove("writing");
    this.answer = answer;
    if (answer) [this.text, this.phrases] = [answer.text, answer.phrases];
    this.#write();
    if (!answer) return;
    const formats = { text: "Copy text", json: "JSON", coco: "COCO", png: "PNG", html: "HTML" };
    for (const [format, label] of Object.entries(formats))
      this.files.append(button(label, () => this.actions.save(this, format), label === "Copy text" ? undefined : `Download ${label}`));
  }

  /** @param {string} message */
  fail(message) {
    this.finish(null);
    this.root.append(element("p", { class: "problem", role: "alert" }, message));
  }

  /** @param {number} threshold */
  filter(threshold) {
    this.threshold = threshold;
    this.#write();
  }

  /** The phrases with what is shown of them. @returns {Phrase[]} */
  get shown() {
    const { threshold } = this;
    return this.phrases.map((phrase) => ({ ...phrase, regions: phrase.regions.filter((region) => region.score > threshold) }));
  }

  /** @param {number | null} index */
  light(index) {
    for (const one of this.root.querySelectorAll("[data-phrase]"))
      one.classList.toggle("lit", index !== null && one.getAttribute("data-phrase") === String(index));
  }

  #write() {
    const focused = this.root.contains(document.activeElement) ? document.activeElement?.getAttribute("data-key") : null;
    const characters = [...this.text]; // spans count code points
    const pieces = [];
    let end = 0;
    for (const phrase of this.shown) {
      pieces.push(characters.slice(end, phrase.span[0]).join(""), this.#phrase(phrase));
      end = phrase.span[1];
    }
    this.said.replaceChildren(...pieces, characters.slice(end).join(""));
    this.found.replaceChildren(...this.shown.map((phrase) => this.#row(phrase)));
    const sure = this.shown.some((phrase) => phrase.regions.length && !phrase.doubtful);
    this.unsure.textContent = this.answer && this.phrases.length && !sure ? "None of this was surely found in the picture." : "";
    if (focused) /** @type {HTMLElement | null} */ (this.root.querySelector(`[data-key="${focused}"]`))?.focus();
  }

  /** @param {Phrase} phrase */
  #phrase(phrase) {
    const names = ["phrase"];
    if (!phrase.regions.length) names.push("nothing");
    if (phrase.doubtful) names.push("doubtful");
    const made = button(phrase.text, () => this.#pin(phrase.id), `${phrase.text}: ${counted(phrase)}`);
    made.className = names.join(" ");
    this.#listen(made, phrase, "said");
    return made;
  }

  /** @param {Phrase} phrase */
  #row(phrase) {
    const dot = element("span", { class: "dot", "aria-hidden": "true" });
    const row = element("li", {}, dot, element("span", { class: "name" }, phrase.text), element("span", { class: "count" }, counted(phrase)));
    if (phrase.doubtful) row.append(element("span", { class: "doubt", title: "About every second such phrase is wrong" }, "doubtful"));
    if (this.answer) {
      const deny = button("Not there", () => this.actions.notThere(this, phrase), `${phrase.text} is not there: ask again`);
      deny.dataset.key = `deny-${phrase.id}`;
      row.append(deny);
    }
    this.#listen(row, phrase, "row");
    return row;
  }

  /** @param {HTMLElement} made @param {Phrase} phrase @param {string} kind */
  #listen(made, phrase, kind) {
    made.dataset.phrase = String(phrase.id);
    made.dataset.key = `${kind}-${phrase.id}`;
    if (phrase.regions.length) made.style.setProperty("--color", colorOf(phrase.id));
    const light = () => this.actions.light(this, phrase.id);
    const dark = () => this.actions.light(this, this.pinned);
    for (const name of ["pointerenter", "focusin"]) made.addEventListener(name, light);
    for (const name of ["pointerleave", "focusout"]) made.addEventListener(name, dark);
  }

  /** A tap keeps it lit, another lets it go. @param {number} index */
  #pin(index) {
    this.pinned = this.pinned === index ? null : index;
    this.actions.light(this, index);
  }
}

/** @param {Phrase} phrase */
function counted(phrase) {
  const count = phrase.regions.length;
  if (!count) return "nothing found";
  const best = Math.max(...phrase.regions.map((region) => region.score));
  return `${count} region${count > 1 ? "s" : ""}, ${Math.round(100 * best)} %`;
}
