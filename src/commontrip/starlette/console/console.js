import { HOUR, Hour, Rates, SHOWN, clock, lag, make, put, rate, said, show, span, visible } from "./draw.js";
import { ask, prepare } from "./order.js";

const get = (id) => document.getElementById(id);
const STALE = 3000;
const QUIET = 10_000; // after so much silence the stream is opened anew
const MANY = 7; // circuits from which there is an overview
const WHY = {
  seed: "It is new, or Redis had lost its keys.",
  cooldown_over: "The cooldown was over, and a call came.",
  probes_succeeded: "Enough probes succeeded.",
  probes_failed: "Too many probes failed.",
  override: "An operator ordered it, or an order ended.",
  external: "Somebody SET the state in Redis by hand.",
  reasserted: "Redis had forgotten it, and a replica remembered.",
  local: "It was decided while Redis was away.",
};

// Times come in the store's clock, together with what it says now. From then on this page's monotonic clock runs.
let head = { now: 0, answers: true, orders: false, more: 0, replica: "" };
let heardAt = 0, heardWall = null, sampledAt = 0;
const seconds = () => performance.now() / 1000;
const now = () => head.now + seconds() - heardAt;
const cards = new Map();
const seen = new IntersectionObserver((entries) => entries.forEach(({ target, isIntersecting }) => {
  target.card.inView = isIntersecting;
  if (isIntersecting) target.card.draw();
}));

function why(one) {
  if (one.reason !== "tripped") return WHY[one.reason] ?? visible(one.reason);
  return `${one.failures ?? 0} of ${one.calls ?? 0} calls failed${one.error ? `, the last with ${visible(one.error)}` : ""}.`;
}

function table(titles, rows) {
  const header = make("tr", {}, ...titles.map((title) => make("th", { scope: "col", textContent: title })));
  const body = rows.map((cells) => make("tr", {}, ...cells.map((cell) => make("td", {}, cell))));
  return make("table", {}, make("thead", {}, header), make("tbody", {}, ...body));
}

class Card {
  constructor(name) {
    this.name = name;
    this.parts = {};
    this.past = new Map();
    this.hour = new Hour();
    this.rates = new Rates();
    this.build();
  }

  build() {
    const p = (className) => make("p", { className });
    this.state = make("span", { className: "state" });
    this.flags = make("span", { className: "flag", hidden: true });
    this.button = make("button", { type: "button", textContent: "Order…", onclick: () => ask(this.name) });
    this.button.setAttribute("aria-label", `Order for ${this.name}`);
    [this.since, this.why, this.who, this.again, this.probes] = ["since", "why", "who", "again", "probes"].map(p);
    this.again.setAttribute("role", "timer");
    this.left = make("i");
    this.cooldown = make("div", { className: "track" }, this.left);
    this.ordered = p("ordered");
    this.gauges = make("div", { className: "gauges" });
    this.legend = make("div", { className: "legend" });
    this.calls = make("figcaption");
    this.replicas = this.details((body) => body.replaceChildren(this.replicaRows()));
    this.transitions = this.details((body) => body.replaceChildren(this.transitionRows()));
    this.policy = p("small");
    const title = make("h2", { textContent: this.name, id: `title-${this.name}` });
    this.element = make("article", { className: "card", id: `circuit-${this.name}`, tabIndex: -1 },
      make("header", {}, title, this.state, this.flags, this.button),
      this.again, this.cooldown, make("div", {}, this.since, this.why, this.who), this.ordered, this.gauges, this.probes,
      make("div", { className: "charts" },
        make("figure", {}, this.calls, this.rates.svg, this.legend),
        make("figure", {}, make("figcaption", { textContent: "State in the last hour: tall is OPEN, low is CLOSED" }), this.hour.svg,
          make("div", { className: "axis" }, make("span", { textContent: "an hour ago" }), make("span", { textContent: "now" })))),
      this.transitions.element, this.replicas.element, this.policy);
    this.element.setAttribute("aria-labelledby", title.id);
    this.element.card = this;
    this.link = make("a", { href: `#${this.element.id}` }, make("span", { textContent: this.name }), make("b"));
    seen.observe(this.element);
  }

  details(fill) {
    const summary = make("summary"), body = make("div", { className: "rows", tabIndex: 0 });
    const element = make("details", {}, summary, body);
    const update = () => element.open && fill(body);
    element.addEventListener("toggle", update);
    body.setAttribute("role", "group");
    return { element, summary, update, body };
  }

  // Takes in what is different; returns what there is to announce.
  merge(parts) {
    const before = this.parts.state, { made = [], ...rest } = parts;
    Object.assign(this.parts, rest);
    for (const one of made) this.past.set(one.epoch, one);
    if (this.past.size > 1000) this.hourOf();
    const at = performance.now();
    if ("remaining" in parts) this.until = parts.remaining === null ? null : at + parts.remaining * 1000;
    if ("ordered" in parts) this.orderedUntil = parts.ordered === null ? null : at + parts.ordered * 1000;
    this.news ||= made.length > 0;
    this.render(parts);
    if (this.news) this.draw();
    return before && before !== this.parts.state ? `${this.name} is ${this.parts.state}. ${this.parts.held ? why(this.parts.held) : ""}` : "";
  }

  get worry() {
    const { state, override, local, provisional } = this.parts;
    return state !== "CLOSED" || override || local || provisional;
  }

  render(parts) {
    const { state, held, override, local, provisional, used, gauges, probes, policy } = this.parts;
    for (const element of [this.element, this.link]) if (element.dataset.state !== state) element.dataset.state = state;
    put(this.state, state);
    put(this.link.lastChild, override ?? state);
    const flags = [local && "this replica decides alone", provisional && "refusing until Redis has confirmed", !used && "not used by this replica yet"];
    put(this.flags, flags.filter(Boolean).join(" · "));
    show(this.flags, flags.some(Boolean));
    if (held) {
      put(this.why, why(held));
      put(this.who, `epoch ${held.number}, made by ${visible(held.replica ?? "nobody")}`);
    }
    this.renderOrder(override);
    if ("gauges" in parts || this.answered !== head.answers) this.renderGauges(gauges);
    show(this.gauges, state === "CLOSED" && override !== "DISABLED");
    const [flying, succeeded, failed, most] = probes;
    show(this.probes, state !== "CLOSED" || flying > 0);
    put(this.probes, `Probes: ${flying} of ${most} in flight` + (state === "HALF_OPEN" ? `, ${succeeded} succeeded, ${failed} failed` : ""));
    put(this.policy, visible(policy));
    if ("replicas" in parts || "held" in parts) this.renderReplicas();
    this.tick();
  }

  renderOrder(override) {
    const note = this.past.get(this.parts.held?.epoch)?.note ?? "";
    if (this.orderNote === `${override} ${note}`) return;
    this.orderNote = `${override} ${note}`;
    show(this.ordered, Boolean(override));
    this.expires = make("span");
    this.ordered.replaceChildren(make("b", { textContent: `Ordered: ${override}` }), " ", this.expires, make("br"), said(note));
  }

  renderGauges(gauges) {
    this.answered = head.answers;
    const whose = head.answers && !this.parts.local ? "Fleet" : "This replica";
    const rows = gauges.map(({ text, share }) => {
      const fill = make("i", { className: share >= 1 ? "there" : share >= 0.7 ? "near" : "" });
      fill.style.transform = `scaleX(${share ?? 0})`;
      const track = make("div", { className: "track", hidden: share === null }, fill);
      return make("div", {}, make("p", { textContent: `${whose}: ${visible(text)}` }), track);
    });
    this.gauges.replaceChildren(...rows);
    if (this.parts.all && rows.length > 1) this.gauges.append(make("p", { className: "small", textContent: "It opens when all of these hold." }));
  }

  renderReplicas() {
    const lags = Object.values(this.parts.replicas ?? {}), told = lags.filter((one) => one !== null);
    const slowest = told.length > 1 ? `, the slowest learned it after ${lag(Math.max(...told))}` : "";
    const late = told.length < lags.length ? `; ${lags.length - told.length} came later, or did not hear` : "";
    const words = `${lags.length} ${lags.length === 1 ? "replica" : "replicas"}, ${told.length} heard of epoch ${this.parts.held?.number ?? "?"}${slowest}${late}`;
    put(this.replicas.summary, this.parts.replicas ? words : "Replicas: Redis has not answered yet");
    this.replicas.body.setAttribute("aria-label", `Replicas of ${this.name}`);
    this.replicas.update();
  }

  replicaRows() {
    const { held, replicas } = this.parts;
    const rows = Object.entries(replicas ?? {}).sort(([, a], [, b]) => (b ?? Infinity) - (a ?? Infinity));
    return table(["Replica", "Sees epoch", "Learned"], rows.map(([name, late]) => [
      said(name + (name === head.replica ? " (this one)" : "")),
      late === null || !held ? "has not said" : `${held.number} ${held.state}`,
      late === null ? "came later, or did not hear" : name === held?.replica ? "made it" : `after ${lag(late)}`,
    ]));
  }

  transitionRows() {
    const rows = this.hourOf().reverse().map((one) => [
      make("time", { dateTime: new Date(one.since * 1000).toISOString(), textContent: clock(one.since) }),
      `${one.before ?? "new"} → ${one.override ?? one.state}${one.local ? " (this replica only)" : ""}`,
      make("span", {}, why(one), one.note ? " " : "", one.note ? said(one.note) : ""),
      said(one.replica ?? ""),
    ]);
    return table(["Time", "Transition", "Why", "Made by"], rows);
  }

  hourOf() {
    const since = now() - HOUR;
    for (const [epoch, one] of this.past) if (one.since < since) this.past.delete(epoch);
    return [...this.past.values()].sort((a, b) => a.since - b.since || a.number - b.number);
  }

  // What changes with time alone.
  tick() {
    const { held, state } = this.parts, at = performance.now();
    show(this.since, Boolean(held));
    if (held) {
      const age = now() - held.since;
      put(this.since, `Since ${clock(held.since, age > 12 * HOUR)}, for ${span(age)}.`);
    }
    const open = state === "OPEN" && this.until !== null;
    show(this.again, open);
    show(this.cooldown, open);
    if (open) {
      const left = Math.max(0, (this.until - at) / 1000);
      const short = left < 10 && !calm.matches ? `${left.toFixed(1)} s` : span(Math.ceil(left));
      const then = this.parts.override ? "Held open for another" : "Tries again in";
      put(this.again, left > 0 ? `${then} ${short}` : "Tries again with the next call");
      this.left.style.transform = `scaleX(${held?.cooldown ? Math.min(1, left / held.cooldown) : 0})`;
    }
    if (this.orderedUntil) put(this.expires, `expires in ${span(Math.ceil((this.orderedUntil - at) / 1000))}`);
  }

  // What is worth drawing only where it can be seen.
  draw() {
    if (!this.inView) return;
    const sample = this.rates.now, shown = SHOWN.filter((name) => name === "success" || this.rates.samples.some((one) => one[name] > 0));
    put(this.calls, `Calls a second at replica ${visible(head.replica)}, last 2 minutes, at most ${rate(this.rates.draw())}`);
    if (this.legend.childElementCount !== shown.length || shown.some((name, i) => this.legend.children[i].className !== `l-${name}`)) {
      this.legend.replaceChildren(...shown.map((name) => make("span", { className: `l-${name}` })));
    }
    shown.forEach((name, i) => put(this.legend.children[i], `${name} ${rate(sample[name])}/s`));
    const past = this.hourOf();
    put(this.transitions.summary, this.hour.draw(past, this.parts.held, now()));
    this.transitions.body.setAttribute("aria-label", `Transitions of ${this.name}`);
    if (this.news) this.transitions.update();
    this.news = false;
  }
}

// -- the page

const calm = matchMedia("(prefers-reduced-motion: reduce)");

function announce(text) {
  get("said").textContent = text;
}

function place(card) {
  const section = get(card.worry ? "trouble" : "closed");
  const rest = [...section.children].filter((one) => one !== card.element);
  const next = rest.find((one) => one.card.name > card.name) ?? null;
  move(card.element, section, next);
  const chips = [...get("overview").children].filter((one) => one !== card.link);
  move(card.link, get("overview"), chips.find((one) => one.firstChild.textContent > card.name) ?? null);
}

function move(element, into, next) {
  if (element.parentNode === into && element.nextElementSibling === next) return;
  const focused = document.activeElement; // moving an element takes the focus from it
  into.insertBefore(element, next);
  if (element.contains(focused)) focused.focus({ preventScroll: true });
}

function summarize() {
  const all = [...cards.values()], in_ = (state) => all.filter((card) => card.parts.state === state);
  const [open, half] = [in_("OPEN"), in_("HALF_OPEN")];
  const names = (some) => (some.length > 3 ? `${some.length} circuits are` : `${some.map((card) => card.name).join(", ")} ${some.length > 1 ? "are" : "is"}`);
  const words = [open.length && `${names(open)} OPEN`, half.length && `${names(half)} HALF_OPEN`].filter(Boolean).join(", ");
  const calmly = all.length === 1 ? `${all[0].name} is CLOSED` : `All ${all.length} circuits are CLOSED`;
  put(get("summary"), words || (all.length ? calmly : "No circuits"));
  document.querySelector(".top").dataset.worst = open.length ? "OPEN" : half.length ? "HALF_OPEN" : all.length ? "CLOSED" : "";
  document.title = `${open.length ? "● " : half.length ? "◐ " : ""}${words || "Circuits: closed"}`;
  put(get("source"), `live from replica ${visible(head.replica)}${head.more ? `; ${head.more} further circuits are not shown` : ""}`);
  const away = !head.answers || all.some((card) => card.parts.local);
  show(get("away"), away);
  put(get("away"), head.answers ? "Some circuits are decided by this replica alone until their next call: Redis was away." : "Redis does not answer: what is shown is what this replica knows, and it decides alone where it must.");
  show(get("overview"), all.length >= MANY);
  show(get("empty"), !all.length);
}

function take(message, whole) {
  if (whole && message.replica !== head.replica) for (const card of cards.values()) card.rates.restart();
  const { breakers, ...rest } = message;
  head = rest;
  heardAt = seconds();
  heardWall = new Date();
  const gone = whole ? [...cards.keys()].filter((name) => !(name in breakers)) : [];
  for (const name of [...gone, ...Object.keys(breakers).filter((key) => breakers[key] === null)]) remove(name);
  const news = [];
  for (const [name, parts] of Object.entries(breakers)) {
    if (parts === null) continue;
    if (!cards.has(name)) cards.set(name, new Card(name));
    const card = cards.get(name);
    news.push(card.merge(parts));
    place(card);
    show(card.button, head.orders);
  }
  if (head.now - sampledAt >= 0.9 || head.now < sampledAt) sample();
  summarize();
  stale();
  if (news.some(Boolean)) announce(news.filter(Boolean).join(" "));
}

function remove(name) {
  const card = cards.get(name);
  if (!card) return;
  seen.unobserve(card.element);
  card.element.remove();
  card.link.remove();
  cards.delete(name);
}

function sample() {
  sampledAt = head.now;
  for (const card of cards.values()) {
    card.rates.add(card.parts.totals, head.now);
    card.draw();
  }
}

// -- the stream

let stream = null, openedAt = 0, again = null;

function connect() {
  clearTimeout(again);
  stream?.close();
  openedAt = performance.now();
  stream = new EventSource("events");
  stream.addEventListener("picture", (event) => hear(event, true));
  stream.addEventListener("change", (event) => hear(event, false));
  // A broken stream comes back by itself, a refused one does not.
  stream.addEventListener("error", () => {
    if (stream.readyState === EventSource.CLOSED) later();
  });
}

function later() {
  clearTimeout(again);
  again = setTimeout(connect, 1000 + Math.random() * 1000);
}

// After what it could not take in the page does not know what it has missed: it asks for the whole picture.
function hear(event, whole) {
  try {
    take(JSON.parse(event.data), whole);
  } catch (error) {
    console.error(error);
    stream.close();
    later();
  }
}

function stale() {
  const silent = performance.now() - (heardAt ? heardAt * 1000 : 0);
  const is = silent > STALE;
  if (is === !get("stale").hidden && heardWall) return;
  document.body.classList.toggle("stale", is);
  show(get("stale"), is);
  if (!is) return;
  const text = heardWall ? `STALE since ${heardWall.toLocaleTimeString()}: no news from the service. What is shown may no longer be so. Connecting again…` : "No connection to the service yet. Connecting…";
  put(get("stale"), text);
  if (heardWall) {
    put(get("source"), `last heard from replica ${visible(head.replica)}`);
    document.title = `? ${document.title}`;
    announce(text);
  }
}

function tick() {
  stale();
  for (const card of cards.values()) card.tick();
  const silentSince = Math.max(heardAt * 1000, openedAt);
  if (performance.now() - silentSince > QUIET) connect();
}

prepare(announce);
connect();
setInterval(tick, calm.matches ? 1000 : 100);
