// Elements made of values, never of markup: names come from the network.

export function el(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value == null || value === false) continue;
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child != null && child !== false));
  return element;
}

export function svg(name, attributes = {}, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

export const state = (name) => el("span", { class: `state ${name}` }, name);

export function table(headings, rows, caption) {
  const head = headings.map((text) => el("th", { scope: "col", class: text.startsWith("#") ? "number" : null }, text.replace("#", "")));
  const body = rows.map((cells) =>
    el("tr", {}, cells.map((cell, index) => el("td", { class: headings[index].startsWith("#") ? "number" : null }, cell ?? ""))),
  );
  return el("div", { class: "scroll" }, el("table", { "aria-label": caption }, el("thead", {}, el("tr", {}, head)), el("tbody", {}, body)));
}

export const list = (pairs) => el("dl", {}, pairs.filter(([, value]) => value !== "" && value != null).flatMap(([key, value]) => [el("dt", {}, key), el("dd", {}, value)]));

export function span(seconds) {
  const whole = Math.max(0, Math.round(seconds));
  const [hours, minutes, rest] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, String(whole % 60).padStart(2, "0")];
  return hours ? `${hours}:${String(minutes).padStart(2, "0")}:${rest}` : `${minutes}:${rest}`;
}

export const clock = (seconds) => new Date(seconds * 1000).toLocaleTimeString();
export const party = (uri) => uri.replace(/^sips?:/, "").replace(/;.*$/, "");
