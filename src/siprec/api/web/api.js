// Asks the API this page comes from. The token lives in this tab only.

const KEY = "siprec-token";

export class ApiError extends Error {
  constructor(status, text) {
    super(text);
    this.status = status;
  }
}

export function setToken(text) {
  if (text) sessionStorage.setItem(KEY, text);
  else sessionStorage.removeItem(KEY);
}

function headers(more = {}) {
  const token = sessionStorage.getItem(KEY);
  return token ? { ...more, Authorization: `Bearer ${token}` } : more;
}

async function checked(response) {
  if (response.ok) return response;
  let text = `${response.status} ${response.statusText}`;
  try {
    const problem = await response.json();
    text = problem.detail || problem.title || problem.status || text;
  } catch { /* no JSON: the status has to do */ }
  throw new ApiError(response.status, text);
}

export async function get(path, query = {}) {
  const given = new URLSearchParams(Object.entries(query).filter(([, value]) => value !== "" && value != null));
  const text = given.toString();
  const response = await fetch(text ? `${path}?${text}` : path, { headers: headers(), cache: "no-store" });
  return (await checked(response)).json();
}

export async function blob(path) {
  return (await checked(await fetch(path, { headers: headers(), cache: "no-store" }))).blob();
}

export async function post(path, body) {
  const options = { method: "POST", headers: headers({ "Content-Type": "application/json" }), body: JSON.stringify(body) };
  return (await checked(await fetch(path, options))).json();
}

// Server-sent events by hand: EventSource cannot send a token. Comes back by itself, from where it was.
export async function follow(onEvent, onLink, signal) {
  let last = "";
  while (!signal.aborted) {
    try {
      const response = await checked(
        await fetch("events", { headers: headers(last ? { "Last-Event-ID": last } : {}), signal, cache: "no-store" }),
      );
      onLink(true);
      const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
      let rest = "";
      for (;;) {
        const { value, done } = await reader.read();
        if (done) break;
        const parts = (rest + value).split("\n\n");
        rest = parts.pop();
        for (const part of parts) {
          const fields = {};
          for (const line of part.split("\n")) {
            const colon = line.indexOf(":");
            if (colon > 0) fields[line.slice(0, colon)] = line.slice(colon + 1).trimStart();
          }
          if (fields.id) last = fields.id;
          if (fields.data && fields.event !== "gap") onEvent(JSON.parse(fields.data));
          else if (fields.event === "gap") onEvent(null);
        }
      }
    } catch (error) {
      if (signal.aborted) return;
      if (error instanceof ApiError && (error.status === 401 || error.status === 403)) throw error;
    }
    onLink(false);
    await new Promise((resolve) => setTimeout(resolve, 2000));
  }
}
