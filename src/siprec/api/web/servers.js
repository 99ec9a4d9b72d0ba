// Recorders, media servers, phones.

import { get } from "./api.js";
import { clock, el, list, state, table } from "./dom.js";

export async function servers() {
  const [srs, media, drain, phones] = await Promise.all([
    get("srs"), get("media"), get("drain"), get("registrations", { limit: 200 }).catch(() => ({ registrations: [], total: 0 })),
  ]);
  const recorders = srs.srs.map((each) => [
    el("span", { class: "mono" }, each.uri), state(each.state), each.active, each.established, each.failed,
    each.last_failure ? `${clock(each.last_failure)}: ${each.status || ""} ${each.reason}` : "", each.profiles.join(", "),
  ]);
  const relays = media.media.map((each) => el("div", { class: "card" },
    el("div", { class: "bar" }, el("h3", {}, each.name), state(each.alive ? (each.draining ? "draining" : "up") : "down")),
    list([["Kind", each.kind], ["Set", each.set === "default" ? null : each.set], ["Calls", each.calls], ["Round trip", each.round_trip == null ? null : `${(each.round_trip * 1000).toFixed(1)} ms`],
      ["Restarts", each.restarts || null], ["Waiting", each.pending || null], ["Error", each.error ? el("span", { class: "bad" }, each.error) : null]]),
  ));
  const registered = phones.registrations.map((each) => [each.aor, el("span", { class: "mono" }, each.contact), each.expires, each.user_agent]);
  return [
    drain.draining ? el("p", { class: "card" }, state("draining"), ` New calls are refused; ${drain.calls} left.`) : null,
    el("h2", {}, "Session recording servers"),
    recorders.length ? table(["URI", "State", "#Now", "#Taken", "#Failed", "Last failure", "Profiles"], recorders, "Session recording servers") : el("p", { class: "empty" }, "None is configured."),
    el("h2", {}, "Media servers"), el("div", { class: "cards" }, relays),
    el("h2", {}, `Registered phones (${phones.total})`),
    registered.length ? table(["Address", "Contact", "#Seconds left", "Device"], registered, "Registered phones") : el("p", { class: "soft" }, "None."),
  ];
}
