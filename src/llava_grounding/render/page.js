"use strict";
// Words and regions that carry the same data-phrase are lit together: by pointer, by keyboard focus, or pinned by a click.
const parts = [...document.querySelectorAll("[data-phrase]")];
let pinned = null;

function light(phrase) {
  document.body.classList.toggle("lighting", phrase !== null && parts.some((part) => part.matches(".region") && part.dataset.phrase === phrase));
  for (const part of parts) part.classList.toggle("lit", part.dataset.phrase === phrase);
}

function phraseAt(event) {
  const part = event.target instanceof Element ? event.target.closest("[data-phrase]") : null;
  return part === null ? null : part.dataset.phrase;
}

function pin(phrase) {
  pinned = phrase === pinned ? null : phrase;
  for (const part of parts) {
    if (part.matches(".phrase")) part.setAttribute("aria-pressed", String(part.dataset.phrase === pinned));
  }
  light(pinned);
}

document.addEventListener("pointerover", (event) => light(phraseAt(event) ?? pinned));
document.documentElement.addEventListener("pointerleave", () => light(pinned));
document.addEventListener("focusin", (event) => light(phraseAt(event) ?? pinned));
document.addEventListener("focusout", () => light(pinned));
document.addEventListener("click", (event) => pin(phraseAt(event)));
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") pin(null);
  if ((event.key === "Enter" || event.key === " ") && phraseAt(event) !== null) {
    event.preventDefault();
    pin(phraseAt(event));
  }
});
