"use strict";
// One phrase at a time. Data becomes text nodes and numbers only, never markup.
(() => {
  const { about, items } = JSON.parse(document.getElementById("data").textContent);
  const name = `review-${about.version}-${about.records}-${items.map((item) => JSON.stringify(item.key)).join()}`.slice(0, 4000);
  const svg = "http://www.w3.org/2000/svg";
  const element = (id) => document.getElementById(id);
  const WORD = /[\p{L}\p{N}]+(?:[-'’][\p{L}\p{N}]+)*/gu;
  let at = 0;
  let verdicts = {};
  try {
    verdicts = JSON.parse(localStorage.getItem(name)) || {};
  } catch {
    verdicts = {};
  }
  let chosen = new Set();
  let span = [0, 0]; // of the phrase as it is now, in this browser's characters

  function make(tag, attributes, content) {
    const node = document.createElementNS(svg, tag);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    if (content !== undefined) node.textContent = content;
    return node;
  }

  function toggle(thing) {
    if (!chosen.delete(thing.id)) chosen.add(thing.id);
    mark();
  }

  function shape(item, thing, number) {
    const [x0, y0, x1, y1] = thing.box;
    const outline = thing.d
      ? make("path", { d: thing.d, "fill-rule": "evenodd", ...(thing.transform ? { transform: thing.transform } : {}) })
      : make("rect", { x: x0, y: y0, width: x1 - x0, height: y1 - y0 });
    const size = Math.max(...item.size) / 36;
    const label = make("text", { x: (x0 + x1) / 2, y: (y0 + y1) / 2 + size / 3, "font-size": size }, number);
    const node = make("g", { class: "thing" });
    node.append(outline, label, make("title", {}, `${number} ${thing.name}`));
    node.dataset.id = thing.id;
    node.addEventListener("click", () => toggle(thing));
    return node;
  }

  function button(thing, number) {
    const node = document.createElement("button");
    node.type = "button";
    node.dataset.id = thing.id;
    node.textContent = `${number} ${thing.name}`;
    node.addEventListener("click", () => toggle(thing));
    const light = (on) => () => {
      for (const one of element("picture").querySelectorAll(".thing")) {
        one.classList.toggle("lit", on && one.dataset.id === node.dataset.id);
      }
    };
    for (const event of ["mouseenter", "focus"]) node.addEventListener(event, light(true));
    for (const event of ["mouseleave", "blur"]) node.addEventListener(event, light(false));
    return node;
  }

  function area(thing) {
    const [x0, y0, x1, y1] = thing.box;
    return (x1 - x0) * (y1 - y0);
  }

  // Which things are chosen, and which words.
  function mark() {
    const item = items[at];
    for (const node of document.querySelectorAll("#picture .thing, #things button")) {
      const on = item.things.some((thing) => thing.id === node.dataset.id && chosen.has(thing.id));
      node.classList.toggle("named", on);
      if (node.tagName === "BUTTON") node.setAttribute("aria-pressed", on);
    }
    const parts = [];
    let done = 0;
    for (const [start, end] of [...item.others, span].sort((one, other) => one[0] - other[0])) {
      const node = document.createElement(start === span[0] ? "mark" : "span");
      node.textContent = item.text.slice(start, end);
      parts.push(item.text.slice(done, start), node);
      done = end;
    }
    element("text").replaceChildren(...parts, item.text.slice(done));
    element("changed").hidden = !isChanged();
  }

  function isChanged() {
    const item = items[at];
    const same = chosen.size === item.named.length && item.named.every((id) => chosen.has(id));
    return !same || span[0] !== item.span[0] || span[1] !== item.span[1];
  }

  function say(text) {
    element("message").textContent = text;
  }

  function reset() {
    chosen = new Set(items[at].named);
    span = [...items[at].span];
  }

  function show() {
    const item = items[at];
    if (!item) {
      element("text").textContent = "There is nothing to review.";
      return;
    }
    say("");
    const verdict = verdicts[JSON.stringify(item.key)];
    reset();
    if (verdict && verdict.annotations) chosen = new Set(verdict.annotations);
    if (verdict && verdict.span) span = verdict.span.map((end) => [...item.text].slice(0, end).join("").length);
    const picture = element("picture");
    picture.setAttribute("viewBox", `0 0 ${item.size[0]} ${item.size[1]}`);
    const [width, height] = item.size;
    const image = make("image", { href: item.picture, width, height, preserveAspectRatio: "none" });
    const numbered = item.things.map((thing, index) => [thing, String(index + 1)]);
    // Large things first, so that small ones lie on top and can be clicked.
    const drawn = [...numbered].sort((one, other) => area(other[0]) - area(one[0]));
    picture.replaceChildren(image, ...drawn.map(([thing, number]) => shape(item, thing, number)));
    element("things").replaceChildren(...numbered.map(([thing, number]) => button(thing, number)));
    mark();
    const done = items.filter((one) => JSON.stringify(one.key) in verdicts).length;
    element("progress").max = items.length;
    element("progress").value = done;
    element("about").textContent = `${at + 1} of ${items.length} · ${done} with a verdict · ${item.image}`;
    for (const one of ["accept", "reject", "fix"]) {
      element(one).setAttribute("aria-pressed", Boolean(verdict) && verdict.verdict === one);
    }
    if (done === items.length) say("All phrases have a verdict: save them with s.");
  }

  function judge(verdict) {
    const item = items[at];
    if (!item) return;
    const changed = isChanged();
    if (verdict === "accept" && changed) {
      return say("This phrase is changed: press f to keep the change, or u to undo it and then a.");
    }
    if (verdict === "fix" && !changed) {
      return say("Nothing is changed yet: choose the right things or words and press f, or press a or r.");
    }
    if (verdict === "fix" && !chosen.size) {
      return say("Choose the things that the phrase names, or press r if it names none.");
    }
    const row = { key: item.key, id: item.id, verdict };
    if (verdict === "fix") {
      row.annotations = item.things.map((thing) => thing.id).filter((id) => chosen.has(id));
      row.span = span.map((end) => [...item.text.slice(0, end)].length); // code points
    }
    verdicts[JSON.stringify(item.key)] = row;
    try {
      localStorage.setItem(name, JSON.stringify(verdicts));
    } catch {
      // A page opened from a file may have no storage; the verdicts are kept until it is closed.
    }
    go(1);
  }

  function go(step) {
    at = Math.min(Math.max(at + step, 0), Math.max(items.length - 1, 0));
    show();
  }

  function words() {
    return [...items[at].text.matchAll(WORD)].map((match) => [match.index, match.index + match[0].length]);
  }

  function take(start, end) {
    if (start === undefined || end === undefined || start >= end) return;
    if (items[at].others.some(([from, to]) => start < to && from < end)) {
      return say("Phrases may not overlap: these words belong to another one.");
    }
    span = [start, end];
    say("");
    mark();
  }

  // The phrase begins or ends a word earlier or later.
  function move(end, step) {
    const edges = words().map((word) => word[end]);
    const edge = step < 0 ? edges.filter((one) => one < span[end]).pop() : edges.find((one) => one > span[end]);
    take(...(end ? [span[0], edge] : [edge, span[1]]));
  }

  // Words marked with the mouse become the phrase, whole words always.
  function select() {
    const selection = window.getSelection();
    const text = element("text");
    if (!items[at] || !selection.rangeCount || selection.isCollapsed) return;
    const range = selection.getRangeAt(0);
    if (!text.contains(range.startContainer) || !text.contains(range.endContainer)) return;
    const before = document.createRange();
    before.selectNodeContents(text);
    before.setEnd(range.startContainer, range.startOffset);
    const from = before.toString().length;
    const to = from + range.toString().length;
    const touched = words().filter(([start, end]) => start < to && from < end);
    selection.removeAllRanges();
    if (touched.length) take(touched[0][0], touched[touched.length - 1][1]);
  }

  function save() {
    const rows = items.map((item) => verdicts[JSON.stringify(item.key)]).filter(Boolean);
    const text = JSON.stringify({ ...about, verdicts: rows }, null, 1);
    const link = document.createElement("a");
    const url = URL.createObjectURL(new Blob([text], { type: "application/json" }));
    link.href = url;
    link.download = "verdicts.json";
    document.body.append(link);
    link.click();
    link.remove();
    setTimeout(() => URL.revokeObjectURL(url), 10_000); // some browsers read it later
    say(`${rows.length} verdicts saved as verdicts.json.`);
  }

  const actions = {
    a: () => judge("accept"),
    r: () => judge("reject"),
    f: () => judge("fix"),
    s: save,
    u: () => {
      reset();
      say("");
      mark();
    },
    q: () => move(0, -1),
    w: () => move(0, 1),
    o: () => move(1, -1),
    p: () => move(1, 1),
    ArrowLeft: () => go(-1),
    ArrowRight: () => go(1),
  };
  const buttons = { accept: "a", reject: "r", fix: "f", save: "s", undo: "u", back: "ArrowLeft", next: "ArrowRight" };
  for (const [id, key] of Object.entries(buttons)) element(id).addEventListener("click", () => items[at] && actions[key]());
  document.addEventListener("keydown", (event) => {
    if (!event.ctrlKey && !event.metaKey && !event.altKey && Object.hasOwn(actions, event.key) && items[at]) {
      event.preventDefault();
      actions[event.key]();
    }
  });
  element("text").addEventListener("mouseup", select);
  show();
})();
