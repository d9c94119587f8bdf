// The picture with what was found in it: a layer of outlines above the photo, in the photo's own pixels.
// Lighting one phrase dims everything that is not its own. Knows no server and no conversation.

import { colorOf } from "./colors.js";
import { shape } from "./dom.js";

/** @typedef {import("./api.js").Phrase} Phrase */

export class Stage {
  /**
   * @param {HTMLElement} place @param {HTMLImageElement} photo
   * @param {(index: number | null) => void} pointed Told which phrase is pointed at in the picture.
   */
  constructor(place, photo, pointed) {
    this.photo = photo;
    this.layer = shape("svg", { "aria-hidden": "true" });
    this.drawn = shape("g");
    this.prompts = shape("g");
    this.layer.append(this.drawn, this.prompts);
    place.append(this.layer);
    this.drawn.addEventListener("pointerover", (event) => pointed(indexOf(event.target)));
    this.drawn.addEventListener("pointerleave", () => pointed(null));
    this.drawn.addEventListener("click", (event) => pointed(indexOf(event.target)));
  }

  /** @param {string} url @returns {Promise<void>} */
  async show(url) {
    this.photo.src = url;
    await this.photo.decode();
    this.layer.setAttribute("viewBox", `0 0 ${this.photo.naturalWidth} ${this.photo.naturalHeight}`);
    this.draw([]);
  }

  /** Draw the regions of an answer. @param {Phrase[]} phrases */
  draw(phrases) {
    const [width, height] = [this.photo.naturalWidth, this.photo.naturalHeight];
    const whole = { x: 0, y: 0, width, height };
    const mask = shape("mask", { id: "unlit", maskUnits: "userSpaceOnUse", ...whole });
    mask.append(shape("rect", { ...whole, fill: "white" }));
    this.holes = shape("g", { fill: "black", "fill-rule": "evenodd" });
    mask.append(this.holes);
    this.drawn.replaceChildren(mask, shape("rect", { class: "dim", mask: "url(#unlit)", ...whole }));
    const regions = phrases.flatMap((phrase) => phrase.regions.map((region) => ({ phrase, region })));
    regions.sort((one, other) => other.region.area - one.region.area); // small things above large ones
    for (const { phrase, region } of regions) {
      const [x0, y0, x1, y1] = region.box;
      const marks = [
        shape("path", { class: "region", d: pathOf(region.polygons ?? []) }),
        shape("rect", { class: "box-of", x: x0, y: y0, width: x1 - x0, height: y1 - y0 }),
      ];
      for (const mark of marks) {
        mark.dataset.phrase = String(phrase.id);
        mark.style.setProperty("--color", colorOf(phrase.id));
      }
      this.drawn.append(...marks);
    }
    this.light(null);
  }

  /** Light what a phrase names and dim the rest; null lights everything. @param {number | null} index */
  light(index) {
    const lit = index === null ? [] : [...this.drawn.querySelectorAll(`[data-phrase="${index}"]`)];
    for (const one of this.drawn.querySelectorAll(".lit")) one.classList.remove("lit");
    for (const one of lit) one.classList.add("lit");
    this.holes?.replaceChildren(
      ...lit.filter((one) => one.classList.contains("region")).map((one) => shape("path", { d: one.getAttribute("d") ?? "" })),
    );
    this.drawn.classList.toggle("lighting", lit.length > 0);
  }

  /** Pixels of the photo in one of the screen. */
  get scale() {
    return this.photo.naturalWidth / Math.max(this.photo.clientWidth, 1);
  }
}

/** @param {EventTarget | null} target */
function indexOf(target) {
  const phrase = target instanceof SVGElement ? target.dataset.phrase : undefined;
  return phrase === undefined ? null : Number(phrase);
}

/** @param {number[][]} polygons Each x0, y0, x1, y1, ... */
export function pathOf(polygons) {
  return polygons.map((points) => `M${points.join(" ")}Z`).join("");
}
