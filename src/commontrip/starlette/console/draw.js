// Words and drawings: everything that comes from outside becomes text or numbers here, never markup.

const SVG = "http://www.w3.org/2000/svg";

export const SHOWN = ["success", "slow", "failure", "rejected", "other"];
export const HOUR = 3600;
const SECONDS = 120;
const TALL = { CLOSED: 8, HALF_OPEN: 16, OPEN: 24 };

export function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

export function put(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

export function show(element, shown) {
  if (element.hidden === shown) element.hidden = !shown;
}

// What has no shape of its own, or turns others around, is shown as its number.
export function visible(text) {
  return String(text).replace(/\p{C}|\p{Zl}|\p{Zp}/gu, (one) => `⟨${one.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}⟩`);
}

export function said(text) {
  return make("span", { className: "said", dir: "auto", textContent: visible(text) });
}

export function clock(unixSeconds, withDay = false) {
  const date = new Date(unixSeconds * 1000);
  return withDay ? date.toLocaleString() : date.toLocaleTimeString();
}

export function span(seconds) {
  const s = Math.max(0, Math.floor(seconds));
  if (s < 60) return `${s} s`;
  if (s < HOUR) return `${Math.floor(s / 60)} min ${s % 60} s`;
  if (s < 24 * HOUR) return `${Math.floor(s / HOUR)} h ${Math.floor((s % HOUR) / 60)} min`;
  return `${Math.floor(s / 86400)} d ${Math.floor((s % 86400) / HOUR)} h`;
}

export function lag(seconds) {
  return seconds < 1 ? `${Math.round(seconds * 1000)} ms` : `${seconds.toFixed(1)} s`;
}

export function rate(perSecond) {
  return perSecond > 0 && perSecond < 9.95 ? perSecond.toFixed(1) : String(Math.round(perSecond));
}

function drawing(width, height, className, classes) {
  const svg = document.createElementNS(SVG, "svg");
  for (const [name, value] of Object.entries({
    viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none", class: className, role: "img",
  })) svg.setAttribute(name, value);
  const paths = Object.fromEntries(classes.map((name) => {
    const path = document.createElementNS(SVG, "path");
    path.setAttribute("class", name);
    svg.append(path);
    return [name, path];
  }));
  return { svg, paths };
}

function box(x, y, width, height) {
  return `M${x.toFixed(1)} ${y.toFixed(2)}h${width.toFixed(1)}v${height.toFixed(2)}h${(-width).toFixed(1)}z`;
}

// The last hour: one path per state, the worse the taller and the later drawn, so that a short trip is never hidden.
export class Hour {
  constructor() {
    Object.assign(this, drawing(HOUR, 24, "hour", Object.keys(TALL)));
  }

  draw(past, held, now) {
    const known = past.length || !held ? past : [held];
    const begins = known.map((one) => [one.since, one.state]);
    if (known[0]?.before) begins.unshift([now - HOUR, known[0].before]);
    const shapes = { CLOSED: "", HALF_OPEN: "", OPEN: "" };
    let open = 0;
    begins.forEach(([since, state], i) => {
      const from = Math.max(0, since - (now - HOUR));
      const until = Math.min(HOUR, (begins[i + 1]?.[0] ?? now) - (now - HOUR));
      if (until < from || !(state in shapes)) return;
      if (state === "OPEN") open += until - from;
      const width = Math.max(until - from, state === "CLOSED" ? 0 : 16);
      shapes[state] += box(Math.min(from, HOUR - width), 24 - TALL[state], width, TALL[state]);
    });
    for (const [state, shape] of Object.entries(shapes)) this.paths[state].setAttribute("d", shape);
    const words = `${past.length} ${past.length === 1 ? "transition" : "transitions"} in the last hour, open for ${span(open)} of it`;
    this.svg.setAttribute("aria-label", words);
    return words;
  }
}

// Calls per second by outcome over the last two minutes, stacked.
export class Rates {
  constructor() {
    Object.assign(this, drawing(SECONDS, 40, "rates", SHOWN));
    this.samples = [];
    this.svg.setAttribute("aria-label", "calls per second over the last two minutes; the numbers are beside it");
  }

  // Totals are this replica's since its start: what has grown since the last sample, by the time between them.
  add(totals, now) {
    const { success, slow, failure, rejected, ignored, cancelled } = totals;
    const sums = { success, slow, failure, rejected, other: ignored + cancelled };
    const seconds = now - (this.last?.now ?? now);
    if (seconds > 0) {
      this.samples.push(Object.fromEntries(SHOWN.map((name) => [name, Math.max(0, sums[name] - this.last.sums[name]) / seconds])));
      if (this.samples.length > SECONDS) this.samples.shift();
    }
    this.last = { now, sums };
  }

  restart() {
    this.samples = [];
    this.last = null;
  }

  get now() {
    return this.samples.at(-1) ?? Object.fromEntries(SHOWN.map((name) => [name, 0]));
  }

  draw() {
    const sum = (sample) => SHOWN.reduce((total, name) => total + sample[name], 0);
    const most = Math.max(1, ...this.samples.map(sum));
    const shapes = Object.fromEntries(SHOWN.map((name) => [name, ""]));
    this.samples.forEach((sample, i) => {
      let top = 40;
      for (const name of SHOWN) {
        const height = (sample[name] / most) * 40;
        top -= height;
        if (height > 0) shapes[name] += box(SECONDS - this.samples.length + i + 0.1, top, 0.8, height);
      }
    });
    for (const name of SHOWN) this.paths[name].setAttribute("d", shapes[name]);
    return most;
  }
}
