"use strict";
const $ = id => document.getElementById(id);
const rows = new Map();      // of the table, by the exchange's number
const history = [];          // how many were in flight, one number a second
let last = null, lastAt = 0, lastSecond = 0, said = "", over = false;

function make(name, text, cls) {
  const element = document.createElement(name);
  if (text !== undefined) element.textContent = text;
  if (cls) element.className = cls;
  return element;
}
function put(element, text) { if (element.textContent !== text) element.textContent = text; }
function time(epoch) { return new Date(epoch * 1000).toLocaleTimeString(); }
function duration(seconds) {
  if (seconds < 60) return seconds.toFixed(seconds < 10 ? 1 : 0) + " s";
  const minutes = Math.floor(seconds / 60), rest = Math.floor(seconds % 60);
  return minutes < 60 ? `${minutes} min` + (rest ? ` ${String(rest).padStart(2, "0")} s` : "")
    : `${Math.floor(minutes / 60)} h ${String(minutes % 60).padStart(2, "0")} min`;
}
function clock(seconds) {
  const whole = Math.max(0, Math.ceil(seconds));
  const parts = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  return (parts[0] ? parts : parts.slice(1)).map((n, i) => i ? String(n).padStart(2, "0") : n).join(":");
}
function size(bytes) {
  let unit = 0;
  for (; bytes >= 1024 && unit < 4; unit++) bytes /= 1024;
  return bytes.toFixed(unit ? 1 : 0) + " " + ["B", "KiB", "MiB", "GiB", "TiB"][unit];
}
function notice(text) { if (text !== said) { said = text; $("notice").textContent = text; } }

const WORDS = {
  "starting": "It is starting: its sockets do not accept yet.",
  "serving": "",
  "lame-duck": "Its health says going down; it still accepts and serves.",
  "closing": "It closes its sockets.",
  "finishing": "The sockets are closed. Finishing what is in flight.",
  "takedown": "The deadline has come: what is left is taken down.",
};

function showState(status) {
  const state = $("state");
  if (state.textContent !== status.state) {
    put(state, status.state);
    state.className = "pill " + status.state;
    notice(status.state === "serving" && status.rotation === "away" ? "Out of the rotation: its health says going down."
      : WORDS[status.state] ?? "");
  }
  put($("who"), `process ${status.pid}` + (status.app_version ? `, version ${status.app_version}` : ""));
  document.title = `${status.state}: ${status.in_flight_count} in flight – graceful`;
}

function showFacts(status) {
  put($("in-flight"), String(status.in_flight_count));
  put($("threads"), `${status.threads.busy} of ${status.threads.size}`);
  put($("queued"), String(status.threads.queued));
  put($("connections"), `${status.connections.busy} + ${status.connections.idle} idle`);
  const moved = status.moved ?? { in: 0, out: 0 };
  put($("moved"), [moved.in && `${moved.in} here`, moved.out && `${moved.out} away`].filter(Boolean).join(", ") || "0");
  put($("finished"), String(status.drain ? status.drain.finished : status.finished));
  put($("taken-down"), String(status.taken_down));
  put($("version"), `graceful ${status.version}`);
}

function showList(list, items, fill) {
  while (list.children.length > items.length) list.lastChild.remove();
  items.forEach((item, index) => {
    const text = JSON.stringify(item);
    let line = list.children[index];
    if (!line) list.append(line = make("li"));
    if (line.dataset.shown !== text) { line.dataset.shown = text; line.replaceChildren(...fill(item)); }
  });
}
function showSockets(status) {
  showList($("sockets"), status.sockets, socket => [make("code", socket.name),
    make("span", socket.state, "stamp " + socket.state)]);
  showList($("certificates"), status.certificates ?? [], certificate => [make("code", certificate.file),
    make("span", "until " + new Date(1000 * certificate.ends).toISOString().slice(0, 10), "quiet")]);
  showList($("states"), status.states, state => [make("span", state.state, state.state),
    make("time", time(state.since))]);
}

function showWorkers(status) {
  const workers = status.workers ?? [];
  $("workers").hidden = !workers.length;
  showList($("worker-list"), workers, worker => [
    make("span", `worker ${worker.number}, process ${worker.pid}`), make("span", worker.state, worker.state),
    make("span", [worker.in_flight_count !== null && `${worker.in_flight_count} in flight`,
      worker.threads && `${worker.threads.busy} of ${worker.threads.size} threads busy`,
      worker.memory && size(worker.memory)].filter(Boolean).join(", "), "quiet")]);
}

function showDeadline() {
  if (!last) return;
  const passed = (performance.now() - lastAt) / 1000;
  if (over) return;
  const shown = last.deadline !== null;
  $("drain").hidden = !last.drain;
  put($("countdown"), shown ? clock(last.deadline - passed) : "–");
  put($("countdown-more"), shown ? `then what is left is taken down; gone at the latest in ${clock(last.latest_exit - passed)}`
    : last.drain ? `gone at the latest in ${clock(last.latest_exit - passed)}` : "");
}

function addRow(exchange) {
  // The roles are what the elements are, which a browser forgets when they are laid out otherwise on a phone.
  const row = make("tr");
  row.setAttribute("role", "row");
  const labels = ["id", "request", "age", "phase", "sent", "thread", "client"];
  const cells = labels.map(label => { const cell = make("td"); cell.dataset.label = label;
    cell.setAttribute("role", "cell"); return cell; });
  row.append(...cells);
  const button = make("button", `${exchange.method} ${exchange.path}`);
  button.type = "button";
  button.title = "show the stack of its thread";
  button.setAttribute("aria-expanded", "false");
  button.addEventListener("click", () => toggleStack(exchange.id));
  cells[1].append(button);
  const id = make("span", String(exchange.id)), worker = make("span", "", "quiet");
  cells[0].append(id, " ", worker);
  const sent = make("span"), bar = make("progress");
  bar.max = 1;
  bar.setAttribute("aria-label", `sent of exchange ${exchange.id}`);
  cells[4].append(sent, bar);
  const entry = {row, cells, button, worker, sent, bar, stack: null, bytes: exchange.bytes_sent, at: null, rate: 0};
  rows.set(exchange.id, entry);
  $("exchanges").tBodies[0].append(row);
  return entry;
}
function showExchanges(status) {
  const seen = new Set(), numbers = new Map((status.workers ?? []).map(worker => [worker.pid, worker.number]));
  for (const exchange of status.in_flight) {
    seen.add(exchange.id);
    const entry = rows.get(exchange.id) ?? addRow(exchange);
    const label = `${exchange.method} ${exchange.path}`;
    put(entry.button, label);
    put(entry.worker, numbers.has(exchange.worker) ? `worker ${numbers.get(exchange.worker)}` : "");
    put(entry.cells[2], duration(exchange.age));
    put(entry.cells[3], exchange.phase);
    put(entry.cells[5], exchange.thread ?? "–");
    put(entry.cells[6], exchange.peer);
    if (entry.at !== null && status.now > entry.at) {
      const rate = (exchange.bytes_sent - entry.bytes) / (status.now - entry.at);
      entry.rate = entry.rate ? entry.rate * 0.7 + rate * 0.3 : rate;
    }
    entry.at = status.now; entry.bytes = exchange.bytes_sent;
    const total = exchange.bytes_total;
    put(entry.sent, (exchange.bytes_sent || total ? size(exchange.bytes_sent) : "–") + (total ? ` of ${size(total)}` : "")
      + (entry.rate >= 1 ? `, ${size(entry.rate)}/s` : ""));
    entry.bar.hidden = !total;
    if (total) entry.bar.value = exchange.bytes_sent / total;
  }
  for (const [id, entry] of rows) {
    if (!seen.has(id)) { entry.row.remove(); entry.stack?.remove(); rows.delete(id); }
  }
  $("nothing").hidden = rows.size > 0;
  $("exchanges").hidden = rows.size === 0;
  const more = status.in_flight_count - status.in_flight.length;
  $("more").hidden = more <= 0;
  put($("more"), `and ${more} more, younger than these`);
}
async function toggleStack(id) {
  const entry = rows.get(id);
  if (!entry) return;
  if (entry.stack) {
    entry.stack.remove(); entry.stack = null;
    entry.button.setAttribute("aria-expanded", "false");
    return;
  }
  entry.stack = make("tr");
  const cell = make("td", undefined, "stack"), text = make("pre", "…");
  cell.colSpan = 7;
  text.tabIndex = 0;
  cell.append(text);
  entry.stack.append(cell);
  entry.row.after(entry.stack);
  entry.button.setAttribute("aria-expanded", "true");
  try {
    const answer = await fetch(`exchanges/${id}`, {cache: "no-store"});
    const told = await answer.json();
    text.textContent = told.error ?? (told.stack || "No thread works for it.");
  } catch { text.textContent = "The server does not answer."; }
}

function showPlot() {
  const shown = Math.min(300, Math.max(60, history.length)), step = 300 / (shown - 1);
  const most = Math.max(1, ...history), start = 300 - step * (history.length - 1);
  const points = history.map((count, index) =>
    `${(start + step * index).toFixed(1)},${(58 - 54 * count / most).toFixed(1)}`);
  $("line").setAttribute("d", points.length ? "M" + points.join("L") : "");
  $("area").setAttribute("d", points.length ? `M${start},60L${points.join("L")}L300,60Z` : "");
  put($("ago"), `${duration(shown)} ago`);
  put($("peak"), `at most ${Math.max(0, ...history)}`);
  put($("plot-text"), `In flight now: ${history.at(-1) ?? 0}, at most ${Math.max(0, ...history)} in the time shown`);
}

function showEnded(ended) {
  $("ended").hidden = !ended.length;
  showList($("ended-list"), ended, one => [
    make("span", one.taken_down ? "taken down" : one.status || "left", "stamp" + (one.taken_down ? " down" : "")),
    make("span", `${one.method} ${one.path}`), make("span", duration(one.seconds), "quiet")]);
}

function show(status) {
  last = status; lastAt = performance.now();
  if (status.history) history.splice(0, history.length, ...status.history);
  if (status.now - lastSecond >= 0.95) { history.push(status.in_flight_count); lastSecond = status.now; }
  if (history.length > 300) history.splice(0, history.length - 300);
  showState(status); showFacts(status); showSockets(status); showWorkers(status); showExchanges(status);
  showEnded(status.ended);
  showDeadline(); showPlot();
}

const source = new EventSource("events");
source.addEventListener("status", event => show(JSON.parse(event.data)));
source.addEventListener("gone", event => {
  const end = JSON.parse(event.data);
  over = true;
  source.close();
  $("state").className = "pill gone";
  put($("state"), "gone");
  $("drain").hidden = false;
  put($("drain-title"), "Exit status");
  put($("countdown"), String(end.exit_status));
  put($("countdown-more"), {0: "everything in flight was finished", 70: "something was taken down",
    71: "threads were abandoned"}[end.exit_status] ?? "");
  if (last) { show({...last, state: "gone", in_flight: [], in_flight_count: 0, workers: []}); }
  put($("finished"), String(end.finished));
  put($("taken-down"), String(end.taken_down));
  showEnded(end.ended);
  notice(`Gone after ${duration(end.seconds)}, exit status ${end.exit_status}: ${end.finished} finished, `
    + `${end.taken_down} taken down, ${end.abandoned} threads abandoned.`);
  document.title = `gone (${end.exit_status}) – graceful`;
});
source.addEventListener("error", () => {
  if (over) return;
  $("state").className = "pill lost";
  put($("state"), "no answer");
  notice("The server does not answer. It is asked again every second.");
});
setInterval(showDeadline, 250);
