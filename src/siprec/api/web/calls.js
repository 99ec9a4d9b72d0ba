// Live calls: the list, and one call with its recordings, time line and ladder.

import { ApiError, get, post } from "./api.js";
import { clock, el, list, party, span, state, table } from "./dom.js";
import { ladder } from "./ladder.js";

const now = () => Date.now() / 1000;

function steer(context, label, what, recording) {
  const act = async (event) => {
    event.target.disabled = true;
    try {
      await post(`siprec_${what}_recording`, { dlg_id: recording.dlg_id, instance: recording.instance, by: "web page" });
    } catch (error) {
      context.complain(error);
    }
    context.refresh();
  };
  const name = `${label} ${recording.instance}, ${party(recording.caller)} to ${party(recording.callee)}`;
  return el("button", { type: "button", onclick: act, "aria-label": name, "data-key": `${what} ${recording.dlg_id} ${recording.instance}` }, label);
}

function controls(context, recording) {
  const found = [];
  if (recording.state === "active") found.push(steer(context, "Pause", "pause", recording));
  if (recording.state === "paused") found.push(steer(context, "Resume", "resume", recording));
  if (["active", "paused", "forking", "inviting"].includes(recording.state)) found.push(steer(context, "Stop", "stop", recording));
  return el("span", { class: "bar" }, found);
}

export async function calls(context) {
  const [page, recordings] = await Promise.all([get("calls", { limit: 500 }), get("recordings", { limit: 500 })]);
  const byCall = Map.groupBy ? Map.groupBy(recordings.recordings, (each) => each.dlg_id) : group(recordings.recordings);
  const rows = page.calls.map((call) => {
    const own = byCall.get(call.dlg_id) ?? [];
    const since = call.answer ?? call.start;
    return [
      el("a", { href: `#/calls/${encodeURIComponent(call.dlg_id)}`, "data-key": `call ${call.dlg_id}` }, party(call.caller)),
      party(call.callee),
      call.state === "confirmed" ? "talking" : "ringing",
      span(now() - since),
      own.length ? own.map((each) => el("div", { class: "bar" }, state(each.state), el("span", { class: "soft" }, each.instance))) : el("span", { class: "soft" }, "not recorded"),
      own.map((each) => el("div", { class: "mono" }, party(each.server))),
      own.length ? own.map((each) => controls(context, each)) : startButton(context, call),
    ];
  });
  const more = page.total > page.calls.length ? `, the first ${page.calls.length} are shown` : "";
  return [
    el("div", { class: "bar" }, el("h2", {}, "Calls"), el("span", { class: "soft" }, `${page.total} now${more}`)),
    rows.length
      ? table(["From", "To", "State", "#Time", "Recording", "SRS", "Do"], rows, "Calls")
      : el("p", { class: "empty" }, "No call at the moment. Calls show up here as they begin."),
  ];
}

function group(recordings) {
  const found = new Map();
  for (const each of recordings) found.set(each.dlg_id, [...(found.get(each.dlg_id) ?? []), each]);
  return found;
}

function startButton(context, call) {
  const act = async () => {
    try {
      await post("siprec_start_recording", { dlg_id: call.dlg_id });
    } catch (error) {
      context.complain(error);
    }
    context.refresh();
  };
  return call.state === "confirmed" ? el("button", { type: "button", onclick: act, "data-key": `start ${call.dlg_id}` }, "Record") : "";
}

export async function call(context, id) {
  let detail = null;
  try {
    detail = await get(`calls/${encodeURIComponent(id)}`);
  } catch (error) {
    if (!(error instanceof ApiError) || error.status !== 404) throw error;
  }
  const back = el("p", {}, el("a", { href: "#/calls" }, "← Calls"));
  const trace = await ladder(id);
  if (detail === null) return [back, el("p", { class: "empty" }, "This call is over."), trace];
  const answered = detail.answer ?? detail.start;
  const parts = detail.recording.map((each) => recordingCard(context, detail, each));
  return [
    back,
    el("h2", {}, `${party(detail.caller)} → ${party(detail.callee)}`),
    el("div", { class: "card" }, list([
      ["State", detail.state], ["Since", `${clock(answered)} (${span(now() - answered)})`], ["Call-ID", el("span", { class: "mono" }, detail.call_id)],
      ["Dialog id", el("span", { class: "mono" }, detail.dlg_id)], ["From", detail.source], ["Media server", detail.media || "none"], ["Media error", detail.media_error],
    ])),
    ...(detail.why ? [el("p", { class: parts.length ? "bad" : "soft" }, `Not recorded: ${detail.why}`)] : []),
    ...parts,
    trace,
  ];
}

function recordingCard(context, detail, recording) {
  const rows = recording.streams.map((stream) => {
    const counters = stream.counters ?? {};
    return [stream.label, stream.party, stream.srtp ? `${stream.kind}, SRTP` : stream.kind, stream.codecs.join(", "), counters.packets ?? "–", counters.withheld ?? "–", counters.receiver_reports ?? "–", counters.lost_reported ?? "–"];
  });
  const attempts = recording.attempts.map((each) => [clock(each.at), each.server, each.result, `${each.status || ""} ${each.reason}`.trim()]);
  const pauses = recording.pauses.map((each) => [clock(each.start), each.end ? clock(each.end) : "still", each.end ? span(each.end - each.start) : "", each.by]);
  return el("section", { class: "card", "aria-label": `Recording ${recording.instance}` },
    el("div", { class: "bar" }, el("h3", {}, `Recording “${recording.instance}”`), state(recording.state), controls(context, recording)),
    list([["Wanted by", recording.wanted_by || null], ["Not recorded", recording.why ? el("span", { class: "bad" }, recording.why) : null], ["SRS", el("span", { class: "mono" }, recording.server)], ["Session", el("span", { class: "mono" }, recording.session_id)], ["Call-ID of the RS", el("span", { class: "mono" }, recording.rs_call_id)],
      ["Set up again", recording.rebuilds || null], ["Last error", recording.last_error ? el("span", { class: "bad" }, recording.last_error) : null], ["Counters", recording.statistics_error]]),
    el("h3", {}, "Time line"), timeline(detail, recording),
    rows.length ? el("h3", {}, "Streams") : null, rows.length ? table(["Label", "Party", "Kind", "Codecs", "#Copied", "#Withheld", "#Reports of the SRS", "#Lost there"], rows, "Streams") : null,
    attempts.length ? el("h3", {}, "Servers tried") : null, attempts.length ? table(["When", "SRS", "Result", "Why"], attempts, "Servers tried") : null,
    pauses.length ? el("h3", {}, "Pauses") : null, pauses.length ? table(["From", "To", "#Time", "Asked for by"], pauses, "Pauses") : null,
  );
}

function timeline(detail, recording) {
  const start = detail.answer ?? detail.start;
  const length = Math.max(1, now() - start);
  const place = (at) => `${Math.min(100, Math.max(0, (100 * (at - start)) / length))}%`;
  const bar = el("div", { class: "line", role: "img" });
  const words = [];
  let open = null;
  const session = (from, to, server) => {
    const part = el("span", { class: "session" }, party(server));
    part.style.left = place(from);
    part.style.width = `calc(${place(to)} - ${place(from)})`;
    bar.append(part);
    words.push(`recorded by ${party(server)} from ${clock(from)}`);
  };
  for (const each of recording.attempts) {
    if (each.result === "established") open = each;
    else if (open && each.result === "ended") {
      session(open.at, each.at, open.server);
      open = null;
    } else if (each.result === "failed") {
      const mark = el("span", { class: "fault", title: `${each.server}: ${each.status} ${each.reason}` });
      mark.style.left = place(each.at);
      bar.append(mark);
      words.push(`${party(each.server)} failed at ${clock(each.at)}`);
    }
  }
  if (open) session(open.at, now(), open.server);
  for (const hold of detail.holds) {
    const part = el("span", { class: "hold", title: `held by ${hold.by}` });
    part.style.left = place(hold.start);
    part.style.width = `calc(${place(hold.end ?? now())} - ${place(hold.start)})`;
    bar.append(part);
    words.push(`held by ${hold.by} at ${clock(hold.start)}`);
  }
  for (const pause of recording.pauses) {
    const part = el("span", { class: "pause", title: "paused" });
    part.style.left = place(pause.start);
    part.style.width = `calc(${place(pause.end ?? now())} - ${place(pause.start)})`;
    bar.append(part);
    words.push(`paused at ${clock(pause.start)}`);
  }
  bar.setAttribute("aria-label", words.join("; ") || "nothing yet");
  return bar;
}
