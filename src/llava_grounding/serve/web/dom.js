// Elements made of plain text: nothing that anybody wrote is ever read as HTML.

const SVG = "http://www.w3.org/2000/svg";

/**
 * @param {string} name @param {Record<string, string>} attributes @param {(Node | string)[]} children
 * @returns {HTMLElement}
 */
export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

/** @param {string} name @param {Record<string, string | number>} attributes @returns {SVGElement} */
export function shape(name, attributes = {}) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, String(value));
  return made;
}

/** @template {Element} T @param {string} id @param {new () => T} kind @returns {T} */
export function byId(id, kind) {
  const found = document.getElementById(id);
  if (!(found instanceof kind)) throw new Error(`no ${id}`);
  return found;
}

/** @param {string} label @param {() => void} action @param {string} [described] For screen readers. */
export function button(label, action, described) {
  const made = element("button", { type: "button", ...(described ? { "aria-label": described } : {}) }, label);
  made.addEventListener("click", action);
  return made;
}
