// The recorder's library: search, waveforms, playing, metadata, download.

import { blob, get } from "./api.js";
import { el, list, party, span, state, table } from "./dom.js";

let text = "";
let playing = null;

export function silence() {
  if (playing) URL.revokeObjectURL(playing);
  playing = null;
}

export async function library(context, after = "") {
  silence();
  const page = await get("library", { text, after, limit: 50 });
  const search = el("form", { class: "bar", role: "search", onsubmit: (event) => {
    event.preventDefault();
    text = event.target.elements.text.value.trim();
    context.show();
  } }, el("label", { for: "search" }, "Search"), el("input", { id: "search", name: "text", type: "search", value: text, placeholder: "address, name, Call-ID", "data-key": "search" }), el("button", {}, "Find"));
  const rows = page.recordings.map((each) => [
    el("a", { href: `#/library/${encodeURIComponent(each.id)}`, "data-key": `recording ${each.id}` }, new Date(each.start).toLocaleString()),
    each.parties.map((one) => one.name || party(one.aor)).join(", "), each.duration == null ? "" : span(each.duration), state(each.state), each.streams, each.lost,
  ]);
  return [
    el("div", { class: "bar" }, el("h2", {}, "Recordings")), search,
    rows.length ? table(["Began", "Participants", "#Time", "State", "#Streams", "#Lost packets"], rows, "Recordings") : el("p", { class: "empty" }, text ? "Nothing fits." : "No recording yet."),
    page.next ? el("p", {}, el("button", { type: "button", onclick: () => context.show(() => library(context, page.next)) }, "Older")) : null,
  ];
}

function draw(canvas, wave, position, colour) {
  const width = (canvas.width = canvas.clientWidth * devicePixelRatio || 800);
  const height = (canvas.height = canvas.clientHeight * devicePixelRatio || 80);
  const pen = canvas.getContext("2d");
  const style = getComputedStyle(canvas);
  pen.clearRect(0, 0, width, height);
  pen.fillStyle = style.getPropertyValue(colour);
  const step = width / Math.max(1, wave.peaks.length);
  wave.peaks.forEach((peak, index) => {
    const size = Math.max(1, (peak / 100) * height * 0.95);
    pen.fillRect(index * step, (height - size) / 2, Math.max(1, step * 0.8), size);
  });
  pen.fillStyle = style.getPropertyValue("--bad");
  pen.fillRect(position * width, 0, 2 * devicePixelRatio, height);
}

async function save(path, name) {
  const url = URL.createObjectURL(await blob(path));
  el("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10000);
}

export async function recording(context, id) {
  silence();
  const path = `library/${encodeURIComponent(id)}`;
  const summary = await get(path);
  const back = el("p", {}, el("a", { href: "#/library" }, "← Recordings"));
  const names = (summary.participants ?? []).map((each) => each.names?.[0]?.name || party(each.names?.[0]?.aor ?? "?"));
  const download = (label, file, name) => el("button", { type: "button", onclick: () => save(`${path}/${file}`, name).catch(context.complain) }, label);
  const files = [summary.mix?.file, ...(summary.streams ?? []).flatMap((each) => [each.file, each.raw_file]), ...(summary.metadata ?? []).map((each) => each.file)].filter(Boolean);
  const found = [
    back, el("h2", {}, names.join(" and ") || id),
    el("div", { class: "card" }, list([
      ["State", state(summary.state)], ["Began", new Date(summary.start).toLocaleString()], ["Time", summary.duration == null ? "" : span(summary.duration)],
      ["End", summary.end_reason], ["Call-ID of the RS", el("span", { class: "mono" }, summary.recording_session?.call_id ?? "")], ["Id", el("span", { class: "mono" }, summary.id)],
      ["Errors", (summary.errors ?? []).length ? el("span", { class: "bad" }, summary.errors.join("; ")) : null],
    ])),
  ];
  try {
    found.push(...(await player(context, path)));
  } catch (error) {
    found.push(el("p", { class: "soft" }, `No audio to hear: ${error.message}`));
  }
  found.push(
    el("h3", {}, "Take away"), el("div", { class: "bar" }, download("vCon", "vcon", `${id}.vcon`), files.map((file) => download(file, `files/${encodeURIComponent(file)}`, `${id}-${file}`))),
    el("h3", {}, "Participants"), table(["Name", "Address", "From", "To"], participants(summary), "Participants"),
    el("h3", {}, "Streams"), table(["#", "Kind", "Label", "Codecs", "#Packets", "#Lost", "#Jitter ms"], (summary.streams ?? []).map((each) => [
      each.number, each.kind, each.label, Object.keys(each.codecs ?? {}).join(", "), each.packets?.received, each.packets?.lost, each.packets?.jitter_ms]), "Streams"),
    ...pauses(summary),
    el("details", {}, el("summary", {}, "recording.json"), el("pre", { tabindex: 0 }, JSON.stringify(summary, null, 2))),
  );
  return found;
}

function pauses(summary) {
  const show = (moment) => (moment ? new Date(moment).toLocaleTimeString() : "");
  const rows = (summary.streams ?? []).flatMap((each) => (each.pauses ?? []).map((pause) => [each.number, each.label, show(pause.from), show(pause.to)]));
  return rows.length ? [el("h3", {}, "Pauses"), table(["#", "Label", "From", "To"], rows, "Pauses")] : [];
}

function participants(summary) {
  const times = new Map();
  for (const session of summary.communication_sessions ?? []) {
    for (const member of session.participants ?? []) times.set(member.participant_id, member.intervals ?? []);
  }
  const show = (moment) => (moment ? new Date(moment).toLocaleTimeString() : "");
  return (summary.participants ?? []).map((each) => {
    const intervals = times.get(each.participant_id) ?? [];
    return [each.names?.[0]?.name ?? "", el("span", { class: "mono" }, each.names?.map((name) => name.aor).join(", ") ?? ""), intervals.map((one) => show(one.from)).join(", "), intervals.map((one) => show(one.to)).join(", ")];
  });
}

async function player(context, path) {
  const waves = await get(`${path}/waveform`, { points: 800 });
  if (!waves.mix && !waves.streams.length) return [el("p", { class: "soft" }, "No audio.")];
  const file = waves.mix || waves.streams[0].file;
  const audio = el("audio", { controls: true, preload: "metadata", "aria-label": "Recording" });
  playing = URL.createObjectURL(await blob(`${path}/files/${encodeURIComponent(file)}`));
  audio.src = playing;
  const length = waves.duration || 1;
  const tracks = waves.streams.map((wave, index) => {
    const seek = (event) => {
      audio.currentTime = (event.offsetX / event.target.clientWidth) * length;
    };
    const canvas = el("canvas", { class: "wave", onclick: seek, role: "img", "aria-label": `Loudness of ${wave.party} over ${span(wave.duration)}` });
    const paint = () => draw(canvas, wave, audio.currentTime / length, index % 2 ? "--wave-2" : "--wave-1");
    audio.addEventListener("timeupdate", paint);
    requestAnimationFrame(paint);
    return el("div", { class: "track" }, el("p", {}, wave.party || wave.file), canvas);
  });
  return [el("h3", {}, "Listen"), ...tracks, audio];
}
