// Tools to point with: click, box, scribble, lasso, brush, erase; by pointer or keys. What comes of them are numbered
// regions in pixels of the photo, as parts of a question. Knows no server.

import { shape } from "./dom.js";

/** @typedef {[number, number]} Point */
/** @typedef {{number: number, kind: string, part: object, points: Point[]}} Pointed */

const BRUSH = 22; // pixels of the screen
const STEP = 10; // of the keyboard's cross, as well

export class Pointing {
  /**
   * @param {HTMLElement} place @param {import("./stage.js").Stage} stage
   * @param {(added: Pointed | null) => void} changed Told of every change, and of the region that was added.
   */
  constructor(place, stage, changed) {
    this.place = place;
    this.stage = stage;
    this.changed = changed;
    /** @type {Pointed[]} */
    this.regions = [];
    this.tool = "look";
    /** @type {Point[]} */
    this.stroke = [];
    /** @type {Point | null} */
    this.cross = null;
    /** @type {Point | null} */
    this.corner = null;
    place.addEventListener("pointerdown", (event) => this.#down(event));
    place.addEventListener("pointermove", (event) => this.#move(event));
    place.addEventListener("pointerup", (event) => this.#up(event));
    place.addEventListener("pointercancel", () => this.#drop());
    place.addEventListener("keydown", (event) => this.#key(event));
    place.addEventListener("blur", () => this.#drop());
  }

  /** @param {string} tool */
  use(tool) {
    this.tool = tool;
    this.place.dataset.tool = tool;
    this.#drop();
  }

  clear() {
    this.regions = [];
    this.draw();
    this.changed(null);
  }

  /** @param {number} number */
  remove(number) {
    this.regions = this.regions.filter((one) => one.number !== number);
    this.draw();
    this.changed(null);
  }

  draw() {
    const { prompts, scale } = this.stage;
    prompts.replaceChildren();
    for (const one of this.regions) {
      prompts.append(...marks(one.kind, one.points, scale));
      const radius = 11 * scale;
      const aside = one.kind === "click" ? 14 * scale : 0; // or the number would hide the place
      const [x, y] = [one.points[0][0] + aside, one.points[0][1] - aside];
      const text = shape("text", { class: "tag-text", x, y, transform: `translate(${x} ${y}) scale(${13 * scale}) translate(${-x} ${-y})` });
      text.append(String(one.number));
      prompts.append(shape("circle", { class: "tag", cx: x, cy: y, r: radius }), text);
    }
    if (this.stroke.length) prompts.append(...marks(this.tool, this.stroke, scale));
    if (this.cross) prompts.append(...crossAt(this.cross, this.stage));
  }

  /** @param {MouseEvent} event @returns {Point} */
  #at(event) {
    const frame = this.stage.layer.getBoundingClientRect();
    const [width, height] = [this.stage.photo.naturalWidth, this.stage.photo.naturalHeight];
    const x = ((event.clientX - frame.left) / frame.width) * width;
    const y = ((event.clientY - frame.top) / frame.height) * height;
    return [within(x, width), within(y, height)];
  }

  /** @param {PointerEvent} event */
  #down(event) {
    if (this.tool === "look" || event.button !== 0) return;
    const point = this.#at(event);
    if (this.tool === "erase") return this.#erase(point);
    this.place.setPointerCapture(event.pointerId);
    this.cross = null;
    this.stroke = this.tool === "box" ? [point, point] : [point];
    this.draw();
  }

  /** @param {PointerEvent} event */
  #move(event) {
    if (!this.stroke.length) return;
    const point = this.#at(event);
    if (this.tool === "box") this.stroke[1] = point;
    else if (this.tool !== "click" && distance(point, this.stroke[this.stroke.length - 1]) > 2 * this.stage.scale)
      this.stroke.push(point);
    this.draw();
  }

  /** @param {PointerEvent} event */
  #up(event) {
    if (!this.stroke.length) return;
    const stroke = this.stroke;
    this.stroke = [];
    this.#add(this.tool === "click" ? [this.#at(event)] : stroke);
  }

  #drop() {
    this.stroke = [];
    this.cross = this.corner = null;
    if (this.stage.photo.naturalWidth) this.draw();
  }

  /** @param {KeyboardEvent} event */
  #key(event) {
    if (this.tool !== "click" && this.tool !== "box") return;
    const { photo, scale } = this.stage;
    const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    const move = moves[/** @type {keyof typeof moves} */ (event.key)];
    const cross = this.cross ?? [photo.naturalWidth / 2, photo.naturalHeight / 2];
    if (move) {
      const step = (event.shiftKey ? 1 : STEP) * scale;
      this.cross = [within(cross[0] + move[0] * step, photo.naturalWidth), within(cross[1] + move[1] * step, photo.naturalHeight)];
      if (this.corner) this.stroke = [this.corner, this.cross];
    } else if (event.key === "Enter") {
      if (this.tool === "box" && !this.corner) this.corner = this.cross = [cross[0], cross[1]];
      else {
        const points = this.corner ? [this.corner, cross] : [cross];
        this.#drop();
        this.#add(/** @type {Point[]} */ (points));
        this.cross = [cross[0], cross[1]];
      }
    } else if (event.key === "Escape") this.#drop();
    else return;
    event.preventDefault();
    this.draw();
  }

  /** @param {Point[]} points */
  #add(points) {
    const part = partOf(this.tool, points, this.stage);
    if (part === null) return this.draw();
    const number = 1 + Math.max(0, ...this.regions.map((one) => one.number));
    const added = { number, kind: this.tool, part: { type: "region", ...part }, points };
    this.regions.push(added);
    this.draw();
    this.changed(added);
  }

  /** Remove the region that is nearest to a point. @param {Point} point */
  #erase(point) {
    const far = (/** @type {Pointed} */ one) => Math.min(...outline(one).map((other) => distance(point, other)));
    const nearest = [...this.regions].sort((one, other) => far(one) - far(other))[0];
    if (nearest) this.remove(nearest.number);
  }
}

/** Points around a region. @param {Pointed} region @returns {Point[]} */
function outline(region) {
  if (region.kind !== "box") return region.points;
  const [[x0, y0], [x1, y1]] = region.points;
  return [[x0, y0], [x1, y0], [x1, y1], [x0, y1], [(x0 + x1) / 2, (y0 + y1) / 2]];
}

/**
 * What the API is told of a region; null if it is too small to be one.
 * @param {string} tool @param {Point[]} points @param {import("./stage.js").Stage} stage
 */
function partOf(tool, points, stage) {
  const { scale } = stage;
  if (tool === "click") return { click: points[0].map(round) };
  if (tool === "box") {
    const [[x0, y0], [x1, y1]] = points;
    if (Math.abs(x1 - x0) < 3 * scale || Math.abs(y1 - y0) < 3 * scale) return null;
    return { box: [Math.min(x0, x1), Math.min(y0, y1), Math.max(x0, x1), Math.max(y0, y1)].map(round) };
  }
  if (tool === "scribble") return { scribble: points.slice(0, 10000).map((point) => point.map(round)) };
  if (tool === "lasso" && points.length < 3) return null;
  return { mask: maskUrl(tool, points, stage) };
}

/** A region as a picture, white on black. @param {string} tool @param {Point[]} points @param {import("./stage.js").Stage} stage */
function maskUrl(tool, points, { photo, scale }) {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [photo.naturalWidth, photo.naturalHeight];
  const pen = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
  pen.fillRect(0, 0, canvas.width, canvas.height);
  pen.fillStyle = pen.strokeStyle = "white";
  pen.lineCap = pen.lineJoin = "round";
  pen.lineWidth = BRUSH * scale;
  pen.beginPath();
  points.forEach(([x, y], number) => (number ? pen.lineTo(x, y) : pen.moveTo(x, y)));
  if (tool === "lasso") pen.fill();
  else if (points.length > 1) pen.stroke();
  else {
    pen.arc(points[0][0], points[0][1], (BRUSH * scale) / 2, 0, 7);
    pen.fill();
  }
  return canvas.toDataURL("image/png");
}

/** @param {string} kind @param {Point[]} points @param {number} scale */
function marks(kind, points, scale) {
  const d = `M${points.map(([x, y]) => `${x} ${y}`).join("L")}`;
  let attributes = { d: kind === "lasso" ? `${d}Z` : d };
  if (kind === "click") attributes = { d: `M${points[0].join(" ")}m${-6 * scale} 0a${6 * scale} ${6 * scale} 0 1 0 ${12 * scale} 0a${6 * scale} ${6 * scale} 0 1 0 ${-12 * scale} 0` };
  if (kind === "box") {
    const [[x0, y0], [x1, y1]] = points;
    attributes = { d: `M${x0} ${y0}H${x1}V${y1}H${x0}Z` };
  }
  if (kind === "brush") {
    const wide = { "stroke-width": BRUSH, "stroke-linecap": "round", "stroke-linejoin": "round", "stroke-opacity": 0.6 };
    const dot = points.length > 1 ? attributes : { d: `${d}l0.01 0` };
    const stroke = shape("path", { class: "prompt line", ...dot });
    for (const [name, value] of Object.entries(wide)) stroke.style.setProperty(name, String(value));
    return [stroke];
  }
  const line = kind === "scribble" ? " line" : "";
  return [shape("path", { class: "prompt under", ...attributes }), shape("path", { class: `prompt${line}`, ...attributes })];
}

/** @param {Point} point @param {import("./stage.js").Stage} stage */
function crossAt([x, y], { scale }) {
  const d = `M${x - 12 * scale} ${y}h${24 * scale}M${x} ${y - 12 * scale}v${24 * scale}`;
  return [shape("path", { class: "cross under", d }), shape("path", { class: "cross", d })];
}

/** @param {number} value @param {number} size */
const within = (value, size) => Math.min(Math.max(value, 0), size - 0.01);
/** @param {number} value */
const round = (value) => Math.round(value * 100) / 100;
/** @param {Point} one @param {Point} other */
const distance = (one, other) => Math.hypot(one[0] - other[0], one[1] - other[1]);
