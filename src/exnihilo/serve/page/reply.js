// Asking the server, and a reply that grows with what is known of each of its tokens. What the server says
// goes into the page as text, never as markup.

// Small tools -------------------------------------------------------------------------------------------

export const $ = (id) => document.getElementById(id);

/** An element: el("p", {className: "hint"}, "text", other). */
export function el(name, props = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(props)) {
    if (key in made) made[key] = value;
    else made.setAttribute(key, value);
  }
  made.append(...children);
  return made;
}

export function percent(p) {
  if (p >= 0.9995 || p === 0) return `${Math.round(p * 100)}%`;
  return p < 0.001 ? "<0.1%" : `${(p * 100).toFixed(1)}%`;
}

/** A token as a reader can tell it from others: white space is drawn, parts of characters are bytes. */
function written({ token, bytes }) {
  if (token.startsWith("bytes:\\x")) return token.slice(6);
  if (!bytes?.length || !token.includes("\ufffd")) return seen(token);
  return bytes.map((b) => `\\x${b.toString(16).padStart(2, "0")}`).join("");
}

const seen = (text) => text.replaceAll(" ", "␣").replaceAll("\n", "⏎").replaceAll("\t", "⇥") || "(no text)";
const chance = (logprob) => (logprob === null || logprob === undefined ? 0 : Math.exp(Math.min(0, logprob)));

/** What the tab or the browser keeps; where it may keep nothing, the page does until it is closed. */
export const kept = {
  own: new Map(),
  get(store, name) {
    try { return window[store].getItem(`exnihilo.${name}`); } catch { return this.own.get(name) ?? null; }
  },
  set(store, name, value) {
    try { window[store].setItem(`exnihilo.${name}`, value); } catch { this.own.set(name, value); }
  },
};

// Asking ------------------------------------------------------------------------------------------------

/** The server said no: `message` for the reader, `code` and `param` of its error, `retry` in seconds. */
class Refused extends Error {
  constructor(status, error, retry) {
    super(error.message || `the server answered ${status}`);
    Object.assign(this, { status, code: error.code, param: error.param, retry });
  }
}

export async function ask(path, body, signal) {
  const headers = { "Content-Type": "application/json" };
  const key = kept.get("sessionStorage", "key");
  if (key) headers.Authorization = `Bearer ${key}`;
  let answer;
  try {
    const sent = body === undefined ? { method: "GET" } : { method: "POST", body: JSON.stringify(body) };
    answer = await fetch(path, { ...sent, headers, signal, cache: "no-store" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("the server cannot be reached: is it still running?");
  }
  if (answer.ok) return answer;
  if (answer.status === 401) document.dispatchEvent(new Event("nokey"));
  const text = await answer.text();
  let error = {};
  try { error = JSON.parse(text).error ?? {}; } catch { error = { message: text.slice(0, 300) }; }
  throw new Refused(answer.status, error, Number(answer.headers.get("Retry-After")) || null);
}

/** The objects of a stream of server-sent events. */
async function* events(answer) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let buffer = "", data = [];
  while (true) {
    const { value, done } = await reader.read().catch((error) => {
      throw error.name === "AbortError" ? error : new Error("the connection broke before the end");
    });
    buffer += done ? "\n\n" : value;
    const lines = buffer.split("\n");
    buffer = lines.pop();
    for (const line of lines.map((l) => l.replace(/\r$/, ""))) {
      if (line.startsWith("data:")) data.push(line.slice(5).trimStart());
      if (line !== "" || !data.length) continue;
      const whole = data.join("\n");
      data = [];
      if (whole === "[DONE]") return;
      const object = JSON.parse(whole);
      if (object.error) throw new Refused(500, object.error, null);
      yield object;
    }
    if (done) throw new Error("the connection broke before the end");
  }
}

/** Facts of tokens from either interface's `logprobs`: {token, bytes, logprob, top: [{token, logprob}]}. */
function factsOf(logprobs) {
  if (!logprobs) return [];
  if (logprobs.content) {
    return logprobs.content.map((c) => ({ ...c, top: c.top_logprobs ?? [] }));
  }
  const tops = logprobs.top_logprobs ?? [];
  return (logprobs.tokens ?? []).map((token, i) => {
    const top = Object.entries(tops[i] ?? {}).map(([name, logprob]) => ({ token: name, logprob }));
    top.sort((a, b) => chance(b.logprob) - chance(a.logprob));
    return { token, bytes: null, logprob: logprobs.token_logprobs[i], top };
  });
}

// A reply, its tokens and what they show on hover -------------------------------------------------------

export const tips = new WeakMap(); // element -> function that makes what its tip holds

/** Lets an element show a tip on hover, focus and touch. */
export function tipped(element, make) {
  tips.set(element, make);
  element.tabIndex = -1;
  element.setAttribute("data-tip", "");
  return element;
}

function tokenTip(group) {
  const parts = [];
  for (const fact of group) {
    if (parts.length) parts.push(el("hr"));
    const p = chance(fact.logprob);
    parts.push(el("p", {}, "drawn ", el("code", { className: "drawn" }, written(fact)), ` at ${percent(p)}`));
    const rows = fact.top.map((t) => el("tr", { className: t.token === fact.token ? "drawn" : "" },
      el("td", {}, el("code", {}, written(t))),
      el("td", {}, el("meter", { value: chance(t.logprob) })), el("td", {}, percent(chance(t.logprob)))));
    if (rows.length) parts.push(el("table", {}, el("tbody", {}, ...rows)));
  }
  return parts;
}

const SLACK = 16; // characters of text that may come before a token's own is given up
const ENDS = { stop: "ended by itself", length: "cut at the limit of tokens", stopped: "stopped by you" };

/** A token's bytes; null where it is a part of a character and nothing says which. */
function bytesOf({ token, bytes }) {
  if (bytes?.length) return bytes;
  if (/^bytes:(\\x[0-9a-f]{2})+$/.test(token)) return token.slice(8).split("\\x").map((hex) => parseInt(hex, 16));
  return token.includes("\ufffd") ? null : [...new TextEncoder().encode(token)];
}

/** Whether bytes end within a character. */
function isCut(bytes) {
  for (let back = 1; back <= Math.min(3, bytes.length); back += 1) {
    const byte = bytes.at(-back);
    if (byte >= 0xc0) return back < (byte >= 0xf0 ? 4 : byte >= 0xe0 ? 3 : 2);
    if (byte < 0x80) return false;
  }
  return false;
}

export class Reply {
  constructor(name) {
    this.name = name;
    this.text = el("div", { className: "text" });
    this.foot = el("div", { className: "foot" });
    this.box = el("article", { className: "waiting", ariaLabel: `Answer of ${name}`, ariaBusy: "true" },
      el("div", { className: "name" }, name), this.text, this.foot);
    this.tail = document.createTextNode(""); // text whose tokens are not known yet
    this.decoder = new TextDecoder("utf-8", { ignoreBOM: true }); // bytes to text, as the server does it
    this.group = []; // tokens whose bytes made no text so far
    this.waiting = []; // {text, group}: tokens in order, until the tail has their text; null: not known
    Object.assign(this, { content: "", tokens: 0, atFirst: 0, began: performance.now(), first: 0, last: 0 });
  }

  /** Text that the reader gave stands before the reply's own. */
  after(given) {
    this.text.append(el("span", { className: "given" }, given));
  }

  push(text, facts) {
    this.last = performance.now();
    this.first ||= this.last;
    if (!this.tail.parentNode) this.text.append(this.tail);
    this.content += text;
    this.tail.data += text;
    this.tokens += facts.length || (text ? 1 : 0);
    this.atFirst ||= this.tokens; // several may come at once
    facts.forEach((fact) => this.claim(fact));
    this.settle(false);
  }

  /** A token's text joins those that wait; where several share a character, they do so together. */
  claim(fact) {
    const bytes = bytesOf(fact);
    this.group.push(fact);
    if (bytes === null) { this.queue(null); return; }
    const text = this.decoder.decode(new Uint8Array(bytes), { stream: true });
    if (text !== "") this.queue(text, isCut(bytes) ? [fact] : []);
  }

  queue(text, left = []) {
    this.waiting.push({ text, group: this.group });
    this.group = left;
  }

  /** Tokens that wait take their text out of the tail. Before the end, a text that is not there may yet come. */
  settle(last) {
    while (this.waiting.length) {
      const known = this.waiting.findIndex((item) => item.text !== null);
      if (known < 0 && !last) return;
      const item = this.waiting[known], tail = this.tail.data;
      const at = known < 0 ? -1 : tail.indexOf(item.text), none = known <= 0;
      if (known >= 0 && (at < 0 || (none && at > 0))) {
        if (!last && tail.length < item.text.length + SLACK) return;
        item.text = null; // not its text after all (a special token): it goes with the next
        continue;
      }
      const before = this.waiting.splice(0, known < 0 ? this.waiting.length : known).flatMap((i) => i.group);
      if (known < 0) { if (tail) this.wrap(tail.length, before); return; }
      if (at > 0) this.wrap(at, before);
      this.waiting.shift();
      this.wrap(item.text.length, at > 0 ? item.group : [...before, ...item.group]);
    }
  }

  /** The tail's first characters become a span that tells of these tokens. */
  wrap(length, group) {
    const text = this.tail.data.slice(0, length), least = Math.min(...group.map((f) => chance(f.logprob)));
    const span = tipped(el("span", { className: "tok" }, text), () => tokenTip(group));
    span.style.setProperty("--doubt", (1 - least).toFixed(3));
    if (!this.text.querySelector(".tok")) span.tabIndex = 0;
    this.tail.data = this.tail.data.slice(length);
    this.text.insertBefore(span, this.tail);
  }

  /** No more text will come: tokens that wait take what is there. */
  flush() {
    const rest = this.decoder.decode();
    if (this.group.length) this.queue(rest || null);
    this.settle(true);
  }

  end(reason, usage) {
    this.box.classList.remove("waiting");
    this.box.ariaBusy = "false";
    this.flush();
    const tokens = usage?.completion_tokens ?? this.tokens;
    const said = [`${tokens} token${tokens === 1 ? "" : "s"}`];
    if (this.first) said.push(`first after ${Math.round(this.first - this.began)} ms`);
    const seconds = (this.last - this.first) / 1000, later = tokens - this.atFirst;
    if (later > 0 && seconds > 0.05) said.push(`then ${Math.round(later / seconds)} a second`);
    said.push(ENDS[reason] ?? reason);
    this.foot.append(said.join(" · "));
    if (this.content === "") this.text.append(el("span", { className: "hint" }, "(no text)"));
  }

  fail(error) {
    this.flush();
    this.box.classList.remove("waiting");
    this.box.ariaBusy = "false";
    this.foot.append(problem(error));
  }
}

export function problem(error) {
  const wait = error.retry ? ` Try again in ${error.retry} s.` : "";
  return el("p", { className: "error", role: "alert" }, error.message + wait);
}

/** Reads a stream into a reply. */
export async function write(reply, path, body, signal) {
  reply.began = performance.now();
  let usage = null, reason = null;
  try {
    const streamed = { ...body, stream: true, stream_options: { include_usage: true } };
    const answer = await ask(path, streamed, signal);
    for await (const event of events(answer)) {
      usage = event.usage ?? usage;
      const choice = event.choices?.[0];
      if (!choice) continue;
      const facts = factsOf(choice.logprobs), text = choice.delta?.content ?? choice.text ?? "";
      if (text || facts.length) follow(() => reply.push(text, facts));
      reason = choice.finish_reason ?? reason;
    }
    reply.end(reason ?? "ended", usage);
  } catch (error) {
    if (error.name === "AbortError") reply.end("stopped", usage);
    else if (error.code === "context_length_exceeded") throw error;
    else reply.fail(error);
  }
}

/** Changes the page and stays at its end, where the reader is there. */
function follow(change) {
  const out = $("out"), near = out.scrollHeight - out.scrollTop - out.clientHeight < 80;
  change();
  if (near) out.scrollTop = out.scrollHeight;
}
