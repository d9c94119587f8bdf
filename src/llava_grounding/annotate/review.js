"use strict";
// One phrase at a time. Data becomes text nodes and numbers only, never markup.
(() => {
  const { about, items } = JSON.parse(document.getElementById("data").textContent);
  const name = `review-${about.records}-${items.map((item) => JSON.stringify(item.key)).join()}`.slice(0, 4000);
  const svg = "http://www.w3.org/2000/svg";
  const element = (id) => document.getElementById(id);
  let at = 0;
  let verdicts = {};
  try {
    verdicts = JSON.parse(localStorage.getItem(name)) || {};
  } catch {
    verdicts = {};
  }
  let chosen = new Set();

  function shape(item, thing) {
    const node = document.createElementNS(svg, thing.d ? "path" : "rect");
    if (thing.d) {
      node.setAttribute("d", thing.d);
      node.setAttribute("fill-rule", "evenodd");
      if (thing.transform) node.setAttribute("transform", thing.transform);
    } else {
      const [x0, y0, x1, y1] = thing.box;
      for (const [key, value] of Object.entries({ x: x0, y: y0, width: x1 - x0, height: y1 - y0 })) {
        node.setAttribute(key, value);
      }
    }
    node.classList.add("thing");
    node.classList.toggle("named", chosen.has(thing.id));
    node.setAttribute("tabindex", "0");
    const title = document.createElementNS(svg, "title");
    title.textContent = `${thing.name} ${thing.id}`;
    node.append(title);
    const toggle = () => {
      if (!chosen.delete(thing.id)) chosen.add(thing.id);
      node.classList.toggle("named", chosen.has(thing.id));
    };
    node.addEventListener("click", toggle);
    node.addEventListener("keydown", (event) => {
      if (event.key === "Enter" || event.key === " ") {
        event.preventDefault();
        event.stopPropagation();
        toggle();
      }
    });
    return node;
  }

  function area(thing) {
    const [x0, y0, x1, y1] = thing.box;
    return (x1 - x0) * (y1 - y0);
  }

  function show() {
    const item = items[at];
    if (!item) {
      element("text").textContent = "There is nothing to review.";
      return;
    }
    const key = JSON.stringify(item.key);
    const verdict = verdicts[key];
    chosen = new Set(verdict && verdict.annotations ? verdict.annotations : item.named);
    const mark = document.createElement("mark");
    mark.textContent = item.text.slice(...item.span);
    element("text").replaceChildren(item.text.slice(0, item.span[0]), mark, item.text.slice(item.span[1]));
    const picture = element("picture");
    picture.setAttribute("viewBox", `0 0 ${item.size[0]} ${item.size[1]}`);
    const image = document.createElementNS(svg, "image");
    image.setAttribute("href", item.picture);
    image.setAttribute("width", item.size[0]);
    image.setAttribute("height", item.size[1]);
    image.setAttribute("preserveAspectRatio", "none");
    // Large things first, so that small ones lie on top and can be clicked.
    const things = [...item.things].sort((one, other) => area(other) - area(one));
    picture.replaceChildren(image, ...things.map((thing) => shape(item, thing)));
    const done = Object.keys(verdicts).length;
    element("about").textContent = `${at + 1} of ${items.length} · ${done} with a verdict · ${item.image}`;
    for (const one of ["accept", "reject", "fix"]) {
      element(one).classList.toggle("chosen", Boolean(verdict) && verdict.verdict === one);
    }
  }

  function judge(verdict) {
    const item = items[at];
    if (!item) return;
    const row = { key: item.key, id: item.id, verdict };
    if (verdict === "fix") row.annotations = [...chosen];
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

  function save() {
    const text = JSON.stringify({ ...about, verdicts: Object.values(verdicts) }, null, 1);
    const link = document.createElement("a");
    link.href = `data:application/json;charset=utf-8,${encodeURIComponent(text)}`;
    link.download = "verdicts.json";
    link.click();
  }

  const actions = {
    a: () => judge("accept"),
    r: () => judge("reject"),
    f: () => judge("fix"),
    s: save,
    ArrowLeft: () => go(-1),
    ArrowRight: () => go(1),
  };
  const buttons = { accept: "a", reject: "r", fix: "f", save: "s", back: "ArrowLeft", next: "ArrowRight" };
  for (const [id, key] of Object.entries(buttons)) element(id).addEventListener("click", actions[key]);
  document.addEventListener("keydown", (event) => {
    if (!event.ctrlKey && !event.metaKey && !event.altKey && actions[event.key]) {
      event.preventDefault();
      actions[event.key]();
    }
  });
  show();
})();
