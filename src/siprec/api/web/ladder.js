// The ladder of one call: its dialog, its recording sessions and the media commands, message by message.

import { ApiError, get } from "./api.js";
import { el, svg } from "./dom.js";

// The message a reader has opened stays open while the ladder grows.
let opened = { id: "", index: -1 };
const ROW = 26;
const TOP = 44;

export async function ladder(id) {
  let trace;
  try {
    trace = await get(`calls/${encodeURIComponent(id)}/trace`);
  } catch (error) {
    if (error instanceof ApiError && error.status === 404) return null;
    throw error;
  }
  if (!trace.steps.length) return null;
  return el("section", { "aria-label": "Ladder" }, el("h3", {}, "Ladder"), ...diagram(id, trace));
}

function diagram(id, trace) {
  const places = trace.places;
  const width = Math.max(720, places.length * 190 + 110);
  const x = (name) => 130 + places.indexOf(name) * ((width - 220) / Math.max(1, places.length - 1));
  const height = TOP + trace.steps.length * ROW + 14;
  const picture = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "group", "aria-label": "Messages in order" });
  picture.append(svg("defs", {}, svg("marker", { id: "tip", viewBox: "0 0 8 8", refX: 8, refY: 4, markerWidth: 7, markerHeight: 7, orient: "auto-start-reverse" }, svg("path", { d: "M0 0 L8 4 L0 8 z", fill: "context-stroke" }))));
  for (const name of places) {
    picture.append(svg("line", { class: "life", x1: x(name), x2: x(name), y1: TOP - 12, y2: height - 4 }), svg("text", { x: x(name), y: 18, "text-anchor": "middle" }, name));
  }
  const body = el("pre", { tabindex: 0, hidden: true, "aria-label": "Message" });
  const first = trace.steps[0].time;
  trace.steps.forEach((step, index) => {
    const y = TOP + index * ROW + 14;
    const [from, to] = [x(step.source), x(step.target)];
    const title = `${(step.time - first).toFixed(3)} s, ${step.source} to ${step.target}: ${step.title}`;
    const show = () => {
      opened = { id, index };
      body.textContent = step.text;
      body.hidden = false;
    };
    if (opened.id === id && opened.index === index) show();
    const middle = (from + to) / 2;
    const row = svg("g", { class: "step", tabindex: 0, role: "button", "aria-label": title, "data-key": `step ${index}` },
      svg("rect", { x: 0, y: y - 17, width, height: ROW }),
      svg("text", { class: "soft", x: 4, y: y - 1 }, `+${(step.time - first).toFixed(3)}`),
      svg("line", { class: `arrow ${step.kind}`, x1: from, x2: to, y1: y, y2: y, "marker-end": "url(#tip)" }),
      svg("text", { x: middle, y: y - 4, "text-anchor": "middle" }, step.title));
    row.addEventListener("click", show);
    row.addEventListener("keydown", (event) => {
      if (event.key === "Enter" || event.key === " ") {
        event.preventDefault();
        show();
      }
    });
    picture.append(row);
  });
  return [el("div", { class: "ladder scroll" }, picture), body];
}
