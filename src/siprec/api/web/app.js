// Views by the address after #, shown again when something happens.

import { ApiError, follow, setToken } from "./api.js";
import { call, calls } from "./calls.js";
import { clock, el } from "./dom.js";
import { library, recording, silence } from "./library.js";
import { sessions } from "./sessions.js";
import { servers } from "./servers.js";

const main = document.getElementById("main");
const notice = document.getElementById("notice");
const link = document.getElementById("link");
const sign = document.getElementById("sign");
const dialog = document.getElementById("token");
const log = [];
const EVERY = 2000;
let turn = 0;
let soon = null;
let abort = null;

function events() {
  const items = log.map((each) => el("li", {}, el("span", { class: "soft" }, clock(each.time)), el("strong", {}, each.event),
    el("span", { class: "mono" }, each.dlg_callid), each.instance, el("span", { class: "mono" }, each.server), `${each.status || ""} ${each.reason}`.trim()));
  return [el("h2", {}, "Events"), items.length ? el("ol", { class: "events" }, items) : el("p", { class: "empty" }, "Nothing has happened since this page was opened.")];
}

// The recorder has a page of its own, with the same parts.
const RECORDER = document.body.dataset.part === "recorder";
const VIEWS = RECORDER ? { sessions: [sessions, null, true], library: [library, recording, false] } : { calls: [calls, call, true], servers: [servers, null, true], events: [async () => events(), null, false], library: [library, recording, false] };
const FIRST = Object.keys(VIEWS)[0];

function where() {
  const [, view = FIRST, id = ""] = location.hash.split("/");
  return { view: VIEWS[view] ? view : FIRST, id: decodeURIComponent(id) };
}

const context = {
  complain(error) {
    notice.textContent = error.message;
    notice.hidden = false;
    setTimeout(() => (notice.hidden = true), 8000);
  },
  refresh: () => later(0),
  show: (make) => show(true, make),
};

async function show(fresh = false, make = null) {
  const mine = ++turn;
  const { view, id } = where();
  for (const each of document.querySelectorAll("nav a")) {
    if (each.dataset.view === view) each.setAttribute("aria-current", "page");
    else each.removeAttribute("aria-current");
  }
  try {
    const [many, one] = VIEWS[view];
    const found = await (make ? make() : id && one ? one(context, id) : many(context));
    if (mine !== turn) return;
    // The keyboard stays where it was, though everything is made anew.
    const key = document.activeElement?.dataset?.key;
    main.replaceChildren(...found.filter(Boolean));
    if (key) main.querySelector(`[data-key="${CSS.escape(key)}"]`)?.focus();
    else if (fresh) main.focus();
  } catch (error) {
    if (mine !== turn) return;
    if (error instanceof ApiError && error.status === 401) askToken();
    else if (fresh) main.replaceChildren(el("p", { class: "empty" }, error.message));
    else if (!(error instanceof TypeError)) context.complain(error);
  }
}

function later(delay) {
  clearTimeout(soon);
  soon = setTimeout(() => {
    if (VIEWS[where().view][2] && !document.hidden) show();
    later(EVERY);
  }, delay);
}

function askToken() {
  sign.hidden = false;
  if (!dialog.open) dialog.showModal();
}

dialog.addEventListener("close", () => {
  const field = document.getElementById("token-text");
  if (dialog.returnValue === "ok" && field.value) {
    setToken(field.value);
    listen();
    show(true);
  }
  field.value = "";
});
sign.addEventListener("click", askToken);

async function listen() {
  if (RECORDER) return; // it has no events; its page asks again and again
  abort?.abort();
  abort = new AbortController();
  try {
    await follow((event) => {
      if (event) {
        log.unshift(event);
        log.length = Math.min(log.length, 500);
      }
      if (where().view === "events") show();
      else later(30);
    }, (up) => (link.textContent = up ? "live" : "connection lost, trying again"), abort.signal);
  } catch (error) {
    link.textContent = "";
    if (error.status === 401) askToken();
  }
}

addEventListener("hashchange", () => {
  silence();
  show(true);
});
document.addEventListener("visibilitychange", () => later(0));
show(true);
listen();
later(EVERY);
