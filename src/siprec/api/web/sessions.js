// The recorder's sessions in progress.

import { get } from "./api.js";
import { el, party, span, state, table } from "./dom.js";

export async function sessions() {
  const [page, ready] = await Promise.all([
    get("sessions", { limit: 200 }), get("health/ready").catch((error) => ({ status: error.message, free: null })),
  ]);
  const rows = page.sessions.map((each) => [
    each.parties.length ? each.parties.map(party).join(", ") : el("span", { class: "soft" }, "not told"),
    span(Date.now() / 1000 - each.start),
    el("span", { class: "mono" }, each.source),
    each.streams.map((one) => el("div", { class: "bar" }, state(one.receiving ? "active" : "paused"),
      el("span", {}, `${one.label || one.kind}: ${one.packets} packets${one.lost ? `, ${one.lost} lost` : ""}${one.silent > 5 ? `, silent for ${span(one.silent)}` : ""}`))),
    each.recordings.map((id) => el("div", {}, el("a", { href: `#/library/${encodeURIComponent(id)}`, "data-key": `recording ${id}` }, id))),
    el("span", { class: "mono" }, each.call_id),
  ]);
  return [
    el("div", { class: "bar" }, el("h2", {}, "Recording sessions"), el("span", { class: "soft" }, `${page.total} of at most ${page.limit}`),
      ready.status === "ok" ? el("span", { class: "soft" }, `${ready.free} MB free`) : el("span", { class: "bad" }, `not ready: ${ready.status}`)),
    rows.length ? table(["Participants", "#Time", "From", "Streams", "Recording", "Call-ID"], rows, "Recording sessions")
      : el("p", { class: "empty" }, "No session at the moment. Sessions show up here as they begin."),
  ];
}
