// What can be done: for each task its fields, its endpoint, and how the answer is shown; and the settings.

import { el, percent, tipped } from "./reply.js";

// What encoders answer ----------------------------------------------------------------------------------

const MASK = "[MASK]";
const big = (text) => el("p", { className: "big" }, text);
const small = (text) => el("p", { className: "n" }, text);
const bars = (...rows) => el("ul", { className: "bars" }, ...rows);
const barred = (name, p) => [el("span", {}, name), el("span", { className: "n" }, percent(p)),
  el("meter", { value: p, ariaLabel: name })];
const bar = (name, p, best) => el("li", { className: best ? "best" : "" }, ...barred(name, p));

/** Characters start to end, counted as the server does: by code points, where JavaScript counts halves. */
const between = (points, start, end) => points.slice(start, end).join("");

const cutOff = (tokens) => (tokens ? [small(`${tokens} tokens were not read: there is no room for more`)] : []);

function showClasses(found) {
  const parts = [];
  if (found.score !== undefined) parts.push(big(`score ${found.score.toFixed(3)}`));
  if (found.similarity !== undefined) parts.push(big(`similarity ${found.similarity.toFixed(3)}`));
  if (found.follows !== undefined) {
    parts.push(big(found.follows ? "the second follows the first" : "the second does not follow"));
    parts.push(small(percent(found.probability ?? 0)));
  }
  if (found.label !== undefined) parts.push(big(String(found.label)));
  if (found.labels !== undefined) parts.push(big(found.labels.join(", ") || "no label"));
  const chosen = new Set([found.label, ...(found.labels ?? [])]);
  const rows = Object.entries(found.probabilities ?? {}).sort((a, b) => b[1] - a[1]);
  if (rows.length) parts.push(bars(...rows.map(([name, p]) => bar(name, p, chosen.has(name)))));
  return [...parts, ...cutOff(found.cut)];
}

function showAnswer(found, given) {
  const points = Array.from(given.context), passage = el("div", { className: "passage" });
  const point = (start, end) => {
    if (start === null || start === undefined) { passage.replaceChildren(given.context); return; }
    const mark = el("mark", {}, between(points, start, end));
    passage.replaceChildren(between(points, 0, start), mark, between(points, end));
  };
  point(found.start, found.end);
  const rows = (found.nbest ?? []).map((n, i) => {
    const button = el("button", { type: "button", ariaPressed: String(i === 0 && found.answer !== "") },
      ...barred(n.text || "(no answer)", n.probability));
    button.onclick = () => {
      rows.forEach((row) => { row.firstChild.ariaPressed = String(row.firstChild === button); });
      point(n.start, n.end);
    };
    return el("li", {}, button);
  });
  const none = percent(found.no_answer_probability ?? 0);
  return [big(found.answer || "no answer in this text"),
    small(`probability ${percent(found.probability)} · of no answer ${none}`), passage,
    ...(rows.length ? [el("h2", {}, "Likeliest answers"), bars(...rows)] : [])];
}

function showTags(found, given) {
  const points = Array.from(given.text), passage = el("div", { className: "passage" }), counts = new Map();
  const spans = found.spans ?? found.words.map((text, i) => ({
    text, start: found.starts[i], end: found.ends[i], label: found.tags[i], probability: found.probabilities[i],
  }));
  const names = [...new Set(spans.map((s) => s.label))].sort();
  let at = 0;
  for (const span of spans) {
    counts.set(span.label, (counts.get(span.label) ?? 0) + 1);
    const mark = el("mark", {}, between(points, span.start, span.end), el("small", {}, span.label));
    const hue = Math.round((names.indexOf(span.label) * 360) / names.length + 45) % 360;
    mark.style.setProperty("--hue", String(hue));
    tipped(mark, () => [el("p", {}, el("b", {}, span.label), ` at ${percent(span.probability)}`),
      small(`characters ${span.start} to ${span.end}`)]);
    if (at === 0 && !passage.querySelector("mark")) mark.tabIndex = 0;
    passage.append(between(points, at, span.start), mark);
    at = span.end;
  }
  passage.append(between(points, at));
  const said = [...counts].map(([name, n]) => `${n} ${name}`).join(", ");
  return [passage, small(said || "nothing was found in this text")];
}

function showGaps(found, given) {
  const around = given.text.split(MASK), text = el("p", { className: "big passage" });
  if (around.length === (found.gaps ?? []).length + 1) {
    text.append(around[0], ...found.gaps.flatMap((gap, i) => [el("mark", {}, gap[0].token), around[i + 1]]));
  } else text.append(found.text ?? "");
  const lists = (found.gaps ?? []).map((gap, i) => el("section", {}, el("h2", {}, `Gap ${i + 1}`),
    bars(...gap.map((g, j) => bar(g.token, g.probability, j === 0)))));
  return [text, ...lists];
}

function showRanks(results, documents) {
  const rows = results.map((r) => bar(documents[r.index], r.relevance_score, false));
  return [bars(...rows), ...cutOff(results.reduce((sum, r) => sum + (r.cut ?? 0), 0))];
}

function showVectors(vectors, texts) {
  const size = (v) => Math.hypot(...v) || 1;
  const cosine = (a, b) => a.reduce((sum, x, i) => sum + x * b[i], 0) / (size(a) * size(b));
  const cell = (near) => {
    const made = el("td", {}, near.toFixed(2));
    made.style.setProperty("--near", Math.max(0, near).toFixed(3));
    return made;
  };
  const rows = vectors.map((a, i) => el("tr", {}, el("th", { scope: "row" }, `${i + 1}. ${texts[i]}`),
    ...vectors.map((b) => cell(cosine(a, b)))));
  const numbers = vectors.map((_, i) => el("th", { scope: "col" }, String(i + 1)));
  const head = el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "cosine"), ...numbers));
  const table = el("table", { className: "near" }, head, el("tbody", {}, ...rows));
  return [el("div", { className: "wide" }, table), small(`vectors of ${vectors[0].length} numbers`)];
}

// Tasks: which fields, which endpoint, how the answer is shown ------------------------------------------

export const lines = (text) => text.split("\n").map((line) => line.trim()).filter(Boolean);
const one = (answer) => answer.data[0];

export const TASKS = {
  chat: { title: "Chat", path: "v1/chat/completions", button: "Send", fields: [["message", "Message", 2]] },
  write: {
    title: "Write", path: "v1/completions", button: "Write", fields: [["prompt", "Text to go on from", 4]],
  },
  classify: {
    title: "Classify", path: "v1/classify", button: "Classify", fields: [["text", "Text", 3]],
    body: (f) => ({ input: f.text, truncate: true }), show: (answer) => showClasses(one(answer)),
  },
  hear: {
    title: "Classify", path: "v1/classify", reads: "sound", button: "Classify",
    fields: [["file", "Sound file", 1, "audio/*"]],
    body: (f) => ({ input: f.file }), show: (answer) => showClasses(one(answer)),
  },
  see: {
    title: "Classify", path: "v1/classify", reads: "picture", button: "Classify",
    fields: [["file", "Picture file", 1, "image/*"]],
    body: (f) => ({ input: f.file }), show: (answer) => showClasses(one(answer)),
  },
  answer: {
    title: "Answer", path: "v1/answer", button: "Answer",
    fields: [["question", "Question", 1], ["context", "Text that holds the answer", 6]],
    body: (f) => ({ input: { question: f.question, context: f.context } }),
    show: (answer, f) => showAnswer(one(answer), f),
  },
  tag: {
    title: "Tag", path: "v1/tag", button: "Tag", fields: [["text", "Text", 5]],
    body: (f) => ({ input: f.text }), show: (answer, f) => showTags(one(answer), f),
  },
  fill: {
    title: "Fill gaps", path: "v1/fill-mask", button: "Fill",
    fields: [["text", `Text with ${MASK} where a word is missing`, 3]],
    body: (f) => ({ input: f.text }), show: (answer, f) => showGaps(one(answer), f),
  },
  rerank: {
    title: "Rerank", path: "v1/rerank", button: "Rank",
    fields: [["query", "Query", 1], ["documents", "Documents, one a line", 6]],
    body: (f) => ({ query: f.query, documents: lines(f.documents), truncate: true }),
    show: (answer, f) => showRanks(answer.results, lines(f.documents)),
  },
  embed: {
    title: "Embed", path: "v1/embeddings", button: "Embed", fields: [["texts", "Texts, one a line", 6]],
    body: (f) => ({ input: lines(f.texts) }),
    show: (answer, f) => showVectors(answer.data.map((d) => d.embedding), lines(f.texts)),
  },
  pair: {
    title: "Pair", path: "v1/pair", button: "Compare",
    fields: [["a", "First text", 2], ["b", "Second text", 2]],
    body: (f) => ({ input: { a: f.a, b: f.b }, truncate: true }), show: (answer) => showClasses(one(answer)),
  },
};

// name, label, kind, limits, what it does. A range at its neutral place, and an empty field, are not sent.
export const CONTROLS = [
  ["temperature", "Temperature", "range", { min: 0, max: 2, step: 0.05, value: 0.7, neutral: null },
    "0: always the likeliest token"],
  ["top_p", "Top p", "range", { min: 0.05, max: 1, step: 0.05, value: 1, neutral: 1 },
    "the likeliest tokens that hold this probability"],
  ["min_p", "Min p", "range", { min: 0, max: 1, step: 0.01, value: 0, neutral: 0 },
    "at least this likely, relative to the likeliest"],
  ["top_k", "Top k", "number", { min: 1, step: 1 }, "the k likeliest"],
  ["max_tokens", "Most tokens", "number", { min: 1, step: 1, value: 256 }, "of one answer"],
  ["repetition_penalty", "Repetition penalty", "number", { min: 0.01, max: 100, step: 0.01 }, "1: none"],
  ["presence_penalty", "Presence penalty", "number", { min: -100, max: 100, step: 0.1 }, "0: none"],
  ["frequency_penalty", "Frequency penalty", "number", { min: -100, max: 100, step: 0.1 }, "0: none"],
  ["seed", "Seed", "number", { min: 0, step: 1 }, "the same seed, the same text"],
  ["stop", "Stop at", "text", {}, "a text that ends the answer"],
];
