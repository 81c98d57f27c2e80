// The page: fetches what the acting person sees whenever something changed, draws it, and sends what they do.
import { make, stickToEnd, sync } from "./dom.js";
import { confirmed, showFile, showView } from "./dialogs.js";
import { drawControls, listenToControls } from "./controls.js";
import { messageItem, parentItem } from "./messages.js";

const find = (id) => document.getElementById(id);
const page = { state: null, look: null, press, tick, openThread, openFile: showFile, act };
// What a reload must not forget; of this tab only, so that two tabs can be two people.
const kept = { get: (name) => sessionStorage.getItem(name), set: (name, value) => sessionStorage.setItem(name, value) };
let me = kept.get("me") ?? "";
let thread = kept.get("thread") || null;
let place = kept.get("place") ?? "channel";

// ---------------------------------------------------------------- what the server says

let busy = false;
let again = false;

// One request at a time, however fast things change and however slow the line is.
async function load() {
  if (busy) {
    again = true;
    return;
  }
  busy = true;
  do {
    again = false;
    await fetchState();
  } while (again);
  busy = false;
}

async function fetchState() {
  const asked = me;
  try {
    const answer = await fetch(`app/state?as=${encodeURIComponent(asked)}`);
    if (!answer.ok) return offline(await answer.text());
    const state = await answer.json();
    if (asked === me) await released();
    if (asked === me) draw(state);
    offline(null);
  } catch {
    offline("The demo does not answer. If it was stopped, start it again and open the address that it prints.");
  }
}

// Nothing is drawn while a pointer is down: a button that is drawn anew under it would lose its click.
let held = null;
let release = null;

function released() {
  return held ?? Promise.resolve();
}

addEventListener("pointerdown", () => (held ??= new Promise((done) => (release = done))), true);
for (const name of ["pointerup", "pointercancel"]) {
  addEventListener(name, () => setTimeout(() => {
    release?.();
    held = release = null;
  }), true);
}

function offline(words) {
  find("offline").hidden = words === null;
  find("offline").textContent = words ?? "";
}

function listen() {
  const stream = new EventSource("app/events");
  stream.onmessage = load;
  stream.onerror = () => {
    load();
    if (stream.readyState === EventSource.CLOSED) setTimeout(listen, 2000);
  };
}

// Returns whether it went through; what the server says to the person is shown.
async function act(name, args = {}) {
  let said;
  try {
    const answer = await fetch(`app/do/${name}`, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ as: me, ...args }) });
    const told = answer.ok ? await answer.json() : { ok: false, said: await answer.text() };
    if (told.said) notice(told.said);
    said = told.ok;
  } catch {
    notice("That did not reach the demo. Try again.");
    said = false;
  }
  load();
  return said;
}

function notice(words) {
  const note = make("p", { class: "notice", "data-testid": "notice" }, words);
  find("notices").append(note);
  setTimeout(() => note.remove(), 8000);
}

// ---------------------------------------------------------------- what people do in messages

async function press(message, block, element) {
  if (element.confirm && !(await confirmed(element.confirm))) return;
  await act("press", { ts: message.ts, block_id: block.block_id, action_id: element.action_id });
}

function tick(message, block, element, values) {
  act("tick", { ts: message.ts, block_id: block.block_id, action_id: element.action_id, values });
}

function openThread(ts) {
  thread = ts;
  kept.set("thread", ts ?? "");
  draw(page.state);
  // On a phone the keyboard would cover what is to be read.
  find(isNarrow() ? "replies" : "thread-composer").focus({ preventScroll: true });
}

const isNarrow = () => matchMedia("(max-width: 800px)").matches;

function goTo(where) {
  place = where;
  kept.set("place", where);
  menu(false);
  draw(page.state);
}

// A link to a message of this workspace.
function openMessage(channel, ts) {
  goTo("channel");
  if (isNarrow()) closeThread();
  const node = [...find("list").children].find((one) => one.dataset.ts === ts);
  if (!node) return notice("That message is not in this channel any more.");
  node.scrollIntoView({ block: "start" });
  node.querySelector("button")?.focus({ preventScroll: true });
}

function closeThread() {
  thread = null;
  kept.set("thread", "");
  draw(page.state);
}

function composer(form, area, inThread) {
  const send = async () => {
    const text = area.value;
    if (text.trim() === "") return;
    area.value = "";
    const sent = await act("send", inThread ? { text, thread_ts: thread } : { text });
    if (!sent && area.value === "") area.value = text;
  };
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    send();
  });
  area.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    send();
  });
}

// ---------------------------------------------------------------- drawing

function draw(state) {
  const before = page.state;
  page.state = state;
  document.body.dataset.turn = state.turn;
  me = state.me;
  page.look = { names: state.names, me, open: openMessage };
  if (before && before.turn !== state.turn) forget();
  drawPeople(state);
  drawControls(state, before);
  drawLists(state);
  drawThread(state);
  showView(state.views[0], page.look, act);
}

function forget() {
  thread = null;
  kept.set("thread", "");
  for (const dialog of document.querySelectorAll("dialog[open]")) dialog.close();
}

function drawPeople(state) {
  const select = find("act-as");
  const told = JSON.stringify(state.people);
  if (select.dataset.told !== told) {
    select.dataset.told = told;
    select.replaceChildren(...state.people.map((one) => make("option", { value: one.id }, `${one.name} · ${one.role}`)));
  }
  select.value = me;
  find("title").textContent = place === "channel" ? `# ${state.channel.name}` : "backout";
  document.title = `#${state.channel.name} · Backout demo`;
}

const byTime = (one, other) => (one.ts < other.ts ? -1 : one.ts > other.ts ? 1 : 0);
const isReply = (message) => message.thread_ts !== undefined && message.thread_ts !== message.ts;

function drawLists(state) {
  const replies = Map.groupBy ? Map.groupBy(state.messages.filter(isReply), (one) => one.thread_ts) : grouped(state.messages.filter(isReply));
  const tops = state.messages.filter((one) => !isReply(one)).map((one) => [one, "message"]);
  const own = state.ephemerals.filter((one) => !isReply(one)).map((one) => [one, "ephemeral"]);
  const items = [...tops, ...own].sort(([one], [other]) => byTime(one, other)).map(([one, kind]) => messageItem(one, kind, replies.get(one.ts) ?? [], page));
  sync(find("list"), items);
  const direct = state.dms.map((one) => messageItem(one, "dm", [], page));
  sync(find("dm"), direct);
  drawPlace(state);
}

function grouped(replies) {
  const found = new Map();
  for (const one of replies) found.set(one.thread_ts, [...(found.get(one.thread_ts) ?? []), one]);
  return found;
}

function drawPlace(state) {
  const inChannel = place === "channel";
  find("list").hidden = !inChannel;
  find("write").hidden = !inChannel;
  find("dm").hidden = inChannel;
  find("to-channel").setAttribute("aria-current", inChannel ? "page" : "false");
  find("to-dms").setAttribute("aria-current", inChannel ? "false" : "page");
  find("dm-count").hidden = state.dms.length === 0;
  find("dm-count").textContent = state.dms.length;
  find("dm").dataset.empty = state.dms.length ? "" : `No direct messages for ${state.names[me]}.`;
}

function drawThread(state) {
  const parent = state.messages.find((one) => one.ts === thread);
  find("thread").hidden = !parent;
  document.body.classList.toggle("in-thread", Boolean(parent));
  if (!parent) return;
  sync(find("parent"), [parentItem(parent, page)]);
  const said = state.messages.filter((one) => isReply(one) && one.thread_ts === thread).map((one) => [one, "reply"]);
  const own = state.ephemerals.filter((one) => one.thread_ts === thread).map((one) => [one, "ephemeral"]);
  const items = [...said, ...own].sort(([one], [other]) => byTime(one, other)).map(([one, kind]) => messageItem(one, kind, [], page));
  sync(find("replies"), items);
}

function menu(open) {
  document.body.classList.toggle("menu-open", open);
  document.querySelector(".menu").setAttribute("aria-expanded", String(open));
}

// ---------------------------------------------------------------- begin

find("act-as").addEventListener("change", (event) => {
  me = event.target.value;
  kept.set("me", me);
  load();
});
find("to-channel").addEventListener("click", () => goTo("channel"));
find("to-dms").addEventListener("click", () => goTo("dms"));
find("thread-close").addEventListener("click", closeThread);
find("thread").addEventListener("keydown", (event) => event.key === "Escape" && closeThread());
document.querySelector(".menu").addEventListener("click", () => menu(!document.body.classList.contains("menu-open")));
composer(find("write"), find("composer"), false);
composer(find("thread-write"), find("thread-composer"), true);
for (const list of ["list", "dm", "replies"]) stickToEnd(find(list));
listenToControls(page, () => menu(false));
load();
listen();
