// The page of `exnihilo serve`: chooses models and tasks, asks, and shows. It uses the server's own endpoints,
// as any client does.

import { $, ask, el, kept, problem, Reply, tips, write } from "./reply.js";
import { CONTROLS, TASKS } from "./tasks.js";

const state = { cards: new Map(), task: null, drafts: {}, outs: {}, turns: [], running: null };

const chosen = () => [$("model").value, $("beside").value].filter(Boolean);
const reads = (card) => /^(sound|picture)_/.exec(card?.task ?? "")?.[1] ?? "text";
const tasksOf = (name) => {
  const card = state.cards.get(name), where = card?.endpoints ?? [];
  const mine = (t) => where.includes(`/${t.path}`) && (t.reads ?? "text") === reads(card);
  return Object.keys(TASKS).filter((name) => mine(TASKS[name]));
};
const writes = () => state.task === "chat" || state.task === "write";

function panes(boxes) {
  return el("div", { className: boxes.length > 1 ? "panes two" : "panes" }, ...boxes);
}

const quiet = (text, onclick) => el("button", { type: "button", className: "quiet", onclick }, text);

function say(text) { $("status").textContent = text; }

function notice(text, again) {
  $("notice").hidden = !text;
  $("notice").replaceChildren(text);
  if (again) $("notice").append(quiet("Try again", again));
}

async function loadModels() {
  let list;
  try {
    list = (await (await ask("v1/models")).json()).data;
  } catch (error) {
    notice(error.message, loadModels);
    return;
  }
  notice("");
  state.cards = new Map(list.map((card) => [card.id, card]));
  const usable = list.filter((card) => tasksOf(card.id).length);
  if (!usable.length) notice("no model of this server answers here", loadModels);
  fill($("model"), usable.map((card) => card.id), kept.get("localStorage", "model"));
  chooseModel();
}

function fill(select, names, wanted, none) {
  const before = wanted ?? select.value;
  const empty = none ? [el("option", { value: "" }, none)] : [];
  select.replaceChildren(...empty, ...names.map((name) => el("option", { value: name }, name)));
  if (names.includes(before)) select.value = before;
  select.disabled = !names.length;
}

function chooseModel() {
  stop();
  const name = $("model").value, mine = tasksOf(name);
  kept.set("localStorage", "model", name);
  const fits = (other) => other !== name && tasksOf(other).some((t) => mine.includes(t));
  const others = [...state.cards.keys()].filter(fits);
  fill($("beside"), others, null, "nothing");
  chooseBeside();
}

function chooseBeside() {
  stop();
  const [first, second] = chosen();
  const tasks = tasksOf(first).filter((t) => !second || tasksOf(second).includes(t));
  $("tasks").replaceChildren(...tasks.map((t) => el("button", {
    type: "button", role: "tab", id: `tab-${t}`, onclick: () => chooseTask(t) }, TASKS[t].title)));
  chooseTask(tasks.includes(state.task) ? state.task : tasks[0]);
}

function chooseTask(task) {
  stop();
  state.task = task ?? null;
  $("send").disabled = !task;
  if (!task) return;
  for (const tab of $("tasks").children) {
    tab.ariaSelected = String(tab.id === `tab-${task}`);
    tab.tabIndex = tab.id === `tab-${task}` ? 0 : -1;
  }
  const draft = (state.drafts[task] ??= {});
  $("fields").replaceChildren(...TASKS[task].fields.map(([name, label, rows, accept]) => {
    if (accept) return el("label", {}, label, chooser(name, accept, draft));
    const area = el("textarea", { id: `field-${name}`, name, rows, value: draft[name] ?? "" });
    area.oninput = () => { draft[name] = area.value; };
    return el("label", {}, label, area);
  }));
  $("settings").hidden = !writes();
  $("controls").elements.system.parentElement.hidden = task !== "chat";
  $("send").textContent = TASKS[task].button;
  $("out").replaceChildren((state.outs[task] ??= el("div")));
  $("out").setAttribute("aria-label", `${TASKS[task].title}: answers`);
  welcome();
}

/** A file to send: what is chosen becomes a data URL in the draft. */
function chooser(name, accept, draft) {
  const input = el("input", { id: `field-${name}`, name, type: "file", accept });
  draft[name] = "";
  input.onchange = () => {
    draft[name] = "";
    const reader = new FileReader();
    reader.onload = () => { draft[name] = reader.result; };
    reader.onerror = () => say(`${input.files[0].name} cannot be read.`);
    if (input.files.length) reader.readAsDataURL(input.files[0]);
  };
  return input;
}

function welcome() {
  const out = state.outs[state.task];
  if (out.childElementCount) return;
  const { task, context } = state.cards.get($("model").value);
  const trained = task ? `trained for ${task.replaceAll("_", " ")}, ` : "";
  const names = chosen().join(" and ");
  out.append(el("p", { className: "hint" }, `${names}: ${trained}sees ${context} tokens at a time.`));
}

/** What the controls say, as parameters of a request; null where one of them cannot be obeyed. */
function sampling() {
  const form = $("controls"), out = {};
  if (!form.checkValidity()) {
    $("settings").open = true;
    form.reportValidity();
    return null;
  }
  for (const [name, , kind, limits] of CONTROLS) {
    const { value } = form.elements[name];
    if (value === "" || (kind === "range" && Number(value) === limits.neutral)) continue;
    out[name] = kind === "text" ? value : Number(value);
  }
  if (!form.elements.tokens.checked) return out;
  return { ...out, ...(state.task === "chat" ? { logprobs: true, top_logprobs: 5 } : { logprobs: 5 }) };
}

async function submit() {
  if (state.running || !state.task) return;
  const draft = state.drafts[state.task], given = { ...draft };
  const empty = TASKS[state.task].fields.find(([name]) => !(given[name] ?? "").trim());
  if (empty) {
    say(`Nothing to send: ${empty[1].toLowerCase()} is empty.`);
    $(`field-${empty[0]}`).focus();
    return;
  }
  const settings = writes() ? sampling() : {};
  if (!settings) return;
  if (state.task === "chat") {
    draft.message = $("field-message").value = "";
    const turn = { user: given.message, replies: [] };
    state.turns.push(turn);
    await chat(turn, settings);
  } else if (state.task === "write") await goOn(given.prompt, settings);
  else await encode(given);
}

/** Runs jobs for all panes at once; one signal stops them. */
async function working(word, jobs) {
  const running = (state.running = new AbortController());
  $("send").hidden = true;
  $("stop").hidden = false;
  say(`${word} …`);
  await Promise.all(jobs.map((job) => job(running.signal)));
  if (state.running !== running) return; // stopped by a change of the page; the next one has begun, or will
  state.running = null;
  $("send").hidden = false;
  $("stop").hidden = true;
  say(running.signal.aborted ? "Stopped." : "Done.");
}

function stop() {
  state.running?.abort();
}

async function chat(turn, settings) {
  const names = chosen(), out = state.outs.chat;
  turn.replies = names.map((name) => new Reply(name));
  const again = el("button", { type: "button", className: "quiet again" }, "Answer again");
  again.onclick = () => { const now = sampling(); if (now && !state.running) chat(turn, now); };
  const box = el("div", { className: "turn" }, el("div", { className: "user" }, turn.user),
    panes(turn.replies.map((r) => r.box)), el("div", { className: "foot" }, again));
  if (turn.box) turn.box.replaceWith(box);
  else { out.querySelector(":scope > .hint")?.remove(); out.append(box); }
  turn.box = box;
  $("out").scrollTop = $("out").scrollHeight;
  await working("Answering", turn.replies.map((reply, i) => async (signal) => {
    const earlier = state.turns[state.turns.indexOf(turn) - 1]?.skip ?? 0;
    for (let skip = turn.skip ?? earlier; ; skip += 1) {
      const { messages, left } = history(turn, i, skip);
      try {
        await write(reply, TASKS.chat.path, { model: reply.name, messages, ...settings }, signal);
        const turns = skip === 1 ? "turn was" : `${skip} turns were`;
        if (skip) reply.foot.append(` · the oldest ${turns} left out: no room for more`);
        turn.skip = skip;
        return;
      } catch (error) { // only a conversation that is too long comes here
        if (!left) { reply.fail(error); return; }
      }
    }
  }));
}

/** A conversation up to a turn as pane i saw it, without its oldest turns; how many earlier ones are in it. */
function history(turn, i, skip) {
  const text = (t) => (t.replies[i] ?? t.replies[0])?.content;
  const before = state.turns.slice(0, state.turns.indexOf(turn)).filter(text).slice(skip);
  const system = $("controls").elements.system.value.trim();
  const messages = system ? [{ role: "system", content: system }] : [];
  for (const t of before) {
    messages.push({ role: "user", content: t.user }, { role: "assistant", content: text(t) });
  }
  return { messages: [...messages, { role: "user", content: turn.user }], left: before.length };
}

async function goOn(prompt, settings) {
  const replies = chosen().map((name) => new Reply(name));
  replies.forEach((reply) => reply.after(prompt));
  state.outs.write.replaceChildren(panes(replies.map((r) => r.box)));
  await working("Writing", replies.map((reply) => async (signal) => {
    try {
      await write(reply, TASKS.write.path, { model: reply.name, prompt, ...settings }, signal);
    } catch (error) {
      reply.fail(error);
    }
    if (!reply.content) return;
    reply.foot.append(quiet("Go on from here", () => {
      state.drafts.write.prompt = prompt + reply.content;
      chooseTask("write");
      $("field-prompt").focus();
    }));
  }));
}

async function encode(given) {
  const task = TASKS[state.task], names = chosen();
  const boxes = names.map((name) => el("article", { ariaLabel: `Answer of ${name}` },
    el("div", { className: "name" }, name)));
  state.outs[state.task].replaceChildren(panes(boxes));
  await working("Asking", boxes.map((box, i) => async (signal) => {
    try {
      const answer = await (await ask(task.path, { model: names[i], ...task.body(given) }, signal)).json();
      box.append(...task.show(answer, given));
    } catch (error) {
      if (error.name === "AbortError") box.append("stopped by you");
      else box.append(problem(error));
    }
  }));
}

function openKey() {
  if (!$("ask").open) $("ask").showModal();
}

// Settings, keys and the tip ----------------------------------------------------------------------------

function makeControls() {
  const saved = JSON.parse(kept.get("localStorage", "settings") ?? "{}"), form = $("controls");
  const system = el("textarea", { name: "system", rows: 2, value: saved.system ?? "" });
  form.append(el("label", { className: "whole" }, "System message", system));
  for (const [name, label, type, { neutral, ...limits }, hint] of CONTROLS) {
    const input = el("input", { name, type, ...limits, value: saved[name] ?? limits.value ?? "" });
    if (type === "number") input.inputMode = limits.step === 1 ? "numeric" : "decimal";
    const shown = type === "range" ? el("span", { className: "value" }) : "";
    const tell = () => {
      if (shown) shown.textContent = Number(input.value) === neutral ? "off" : input.value;
    };
    input.addEventListener("input", tell);
    tell();
    form.append(el("label", {}, el("span", {}, label, shown), input, el("small", {}, hint)));
  }
  const boxes = [["tokens", "Probabilities of tokens", true], ["shade", "Shade unlikely tokens", false]];
  for (const [name, label, on] of boxes) {
    const box = el("input", { type: "checkbox", name, checked: saved[name] ?? on });
    form.append(el("label", { className: "check whole" }, box, label));
  }
  const keep = () => {
    const now = {};
    for (const { name, type, checked, value } of form.elements) {
      now[name] = type === "checkbox" ? checked : value;
    }
    kept.set("localStorage", "settings", JSON.stringify(now));
    $("out").classList.toggle("shade", now.shade);
  };
  form.addEventListener("input", keep);
  form.addEventListener("submit", (event) => event.preventDefault());
  keep();
}

let shown = null;

function showTip(target) {
  const make = target && tips.get(target);
  if (target === shown) return;
  shown?.classList.remove("shown");
  shown = make ? target : null;
  $("tip").hidden = !make;
  if (!make) return;
  target.classList.add("shown");
  target.setAttribute("aria-describedby", "tip");
  $("tip").replaceChildren(...make());
  placeTip();
}

/** Beside what it tells of; gone once that is scrolled out of sight. */
function placeTip() {
  if (!shown) return;
  const target = shown, seen = $("out").getBoundingClientRect();
  const at = target.getClientRects()[0] ?? target.getBoundingClientRect();
  if (at.bottom < seen.top || at.top > seen.bottom) { showTip(null); return; }
  const { width, height } = $("tip").getBoundingClientRect();
  const top = at.bottom + 8 + height < innerHeight ? at.bottom + 8 : Math.max(4, at.top - height - 8);
  $("tip").style.left = `${Math.max(8, Math.min(at.left, innerWidth - width - 8))}px`;
  $("tip").style.top = `${top}px`;
}

/** Arrows, Home and End move between siblings that match; one of them is in the order of tabs. */
function rove(event, selector, inside) {
  const from = event.target.closest?.(selector), within = from?.closest(inside);
  if (!within) return;
  const all = [...within.querySelectorAll(selector)], at = all.indexOf(from);
  const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: all.length - 1 }[event.key];
  if (to === undefined || !all[to]) return;
  event.preventDefault();
  from.tabIndex = -1;
  all[to].tabIndex = 0;
  all[to].focus();
  if (all[to].role === "tab") all[to].click();
}

function listen() {
  const tipOf = (event) => event.target.closest?.("[data-tip]") ?? null;
  $("form").addEventListener("submit", (event) => { event.preventDefault(); submit(); });
  $("fields").addEventListener("keydown", (event) => {
    const sends = state.task === "chat" ? !event.shiftKey : event.ctrlKey || event.metaKey;
    if (event.key === "Enter" && sends && !event.isComposing) { event.preventDefault(); submit(); }
  });
  $("stop").onclick = stop;
  $("clear").onclick = () => {
    stop();
    if (state.task === "chat") state.turns = [];
    if (!state.task) return;
    state.outs[state.task].replaceChildren();
    welcome();
    say("");
    $("fields").querySelector("textarea, input").focus();
  };
  $("model").onchange = chooseModel;
  $("beside").onchange = chooseBeside;
  $("key").onclick = openKey;
  $("cancel").onclick = () => $("ask").close("");
  document.addEventListener("nokey", openKey);
  $("ask").addEventListener("close", () => {
    if ($("ask").returnValue === "use") {
      kept.set("sessionStorage", "key", $("secret").value.trim());
      loadModels();
    }
    $("secret").value = $("ask").returnValue = "";
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && !$("ask").open) { if ($("tip").hidden) stop(); else showTip(null); }
    rove(event, "[data-tip]", ".text, .passage");
    rove(event, "[role=tab]", "[role=tablist]");
  });
  document.addEventListener("pointerover", (event) => {
    if (event.pointerType === "mouse") showTip(tipOf(event));
  });
  document.addEventListener("click", (event) => showTip(tipOf(event)));
  document.addEventListener("focusin", (event) => showTip(tipOf(event)));
  document.addEventListener("focusout", (event) => { if (event.target === shown) showTip(null); });
  $("out").addEventListener("scroll", placeTip, { passive: true });
}

makeControls();
listen();
$("settings").open = matchMedia("(min-width: 52rem)").matches;
loadModels();
