// Orders of operators. The token is in its field and nowhere else: not in storage, not in an address.

const get = (id) => document.getElementById(`order-${id}`);
const dialog = document.getElementById("order");
const form = get("form");
const AUTOMATIC = "AUTOMATIC";
let asked = null; // the breaker that the dialog is about, and what aborts its request when the dialog goes

const REFUSED = {
  401: "Refused: the token is wrong. Nothing was changed.",
  403: "Refused: this service has no operators' token, so nobody can give orders here.",
  404: "This replica has no such circuit. Nothing was changed.",
};

export function ask(name) {
  leave();
  asked = { name, gone: new AbortController() };
  get("title").textContent = `Order for ${name}`;
  for (const choice of form.elements.override) choice.checked = false;
  get("send").disabled = false;
  complain("");
  expiry();
  dialog.showModal();
  form.querySelector("input").focus();
}

function leave() {
  asked?.gone.abort();
}

function complain(text) {
  get("error").hidden = !text;
  get("error").textContent = text;
}

function expiry() {
  get("minutes").disabled = form.elements.override.value === AUTOMATIC;
}

async function send({ name, gone }) {
  const chosen = form.elements.override.value, override = chosen === AUTOMATIC ? null : chosen;
  const order = { override, author: get("author").value, reason: get("reason").value };
  if (override) order.seconds = get("minutes").valueAsNumber * 60;
  const headers = new Headers({ "Content-Type": "application/json" });
  try {
    headers.set("Authorization", `Bearer ${get("token").value}`);
  } catch {
    return REFUSED[401]; // no header carries it, so it cannot be the right one
  }
  const address = `override?breaker=${encodeURIComponent(name)}`;
  const signal = AbortSignal.any([gone.signal, AbortSignal.timeout(10_000)]);
  const request = { method: "POST", headers, body: JSON.stringify(order), cache: "no-store", signal };
  try {
    const response = await fetch(address, request);
    if (response.ok) return "";
    const problem = await response.json().catch(() => ({}));
    return REFUSED[response.status] ?? `Not confirmed (${response.status}): ${problem.detail ?? "no reason was given"}`;
  } catch {
    return "No answer. Look at the circuit before you repeat the order.";
  }
}

export function prepare(announce) {
  form.addEventListener("change", expiry);
  get("cancel").addEventListener("click", () => dialog.close());
  dialog.addEventListener("close", () => dialog.open || leave());
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const order = asked;
    get("send").disabled = true;
    complain("");
    const trouble = await send(order);
    if (order.gone.signal.aborted) return; // the dialog is another's by now, or nobody's
    get("send").disabled = false;
    complain(trouble);
    if (trouble) get(trouble === REFUSED[401] ? "token" : "send").focus();
    else {
      dialog.close();
      announce(`The order for ${order.name} was given.`);
    }
  });
}
