// A message as it stands in the channel, in a thread or in the direct messages.
import { drawBlocks } from "./blocks.js";
import { clock, initials, make, shade } from "./dom.js";
import { mrkdwn } from "./text.js";

// `page`: {state, look, press(message, block, element), tick(message, block, element, values), openThread(ts), openFile(file)}
export function messageItem(message, kind, replies, page) {
  const last = replies.at(-1)?.ts ?? "";
  return {
    key: `${kind} ${message.ts}`,
    mark: JSON.stringify([message, replies.length, last, page.state.me]),
    draw: () => drawMessage(message, kind, replies, page),
  };
}

function drawMessage(message, kind, replies, page) {
  const { state } = page;
  const name = state.names[message.user] ?? message.user;
  const app = message.user === state.app;
  return make(
    "li",
    { class: `message ${kind}`, "data-testid": "message", "data-ts": message.ts, "data-user": message.user, "data-kind": kind },
    kind === "ephemeral" ? make("p", { class: "only" }, "Only visible to you") : null,
    make("span", { class: `avatar ${app ? "app" : shade(message.user)}`, "aria-hidden": "true" }, initials(name)),
    make(
      "div",
      { class: "said" },
      make("p", { class: "head" }, make("strong", { dir: "auto" }, name), badge(message, state), time(message.ts)),
      body(message, page),
      ...(message.files ?? []).map((file) => fileLink(file, page)),
      kind === "message" ? threadLink(message, replies, page) : null,
    ),
  );
}

function badge(message, state) {
  if (message.user === state.app) return make("span", { class: "badge" }, "APP");
  const role = state.people.find((one) => one.id === message.user)?.role;
  return role ? make("span", { class: "faint" }, role) : null;
}

function time(ts) {
  const at = new Date(Number(ts) * 1000);
  return make("time", { class: "faint", datetime: at.toISOString(), title: at.toLocaleString() }, clock(Number(ts)));
}

export function cardOf(message) {
  return message.metadata?.event_type === "backout_card" ? message.metadata.event_payload : null;
}

function body(message, page) {
  const card = cardOf(message);
  const attributes = card ? { class: "card", "data-testid": "card", "data-state": card.state, "data-run": card.run } : { class: "text" };
  const press = (block, element) => page.press(message, block, element);
  const tick = (block, element, values) => page.tick(message, block, element, values);
  const drawn = message.blocks?.length ? drawBlocks(message.blocks, page.look, press, tick) : [make("span", { dir: "auto" }, mrkdwn(message.text ?? "", page.look))];
  return make("div", attributes, ...drawn, message.edited ? make("span", { class: "faint" }, " (edited)") : null);
}

function fileLink(file, page) {
  return make(
    "button",
    { type: "button", class: "file", "data-testid": "file", "data-name": file.name, "data-focus": `file ${file.id}`, onclick: () => page.openFile(file) },
    make("span", { dir: "auto" }, file.name),
    make("span", { class: "faint" }, "Open"),
  );
}

function threadLink(message, replies, page) {
  const told = replies.length === 0 ? "Reply" : `${replies.length} ${replies.length === 1 ? "reply" : "replies"}`;
  return make(
    "button",
    {
      type: "button", class: replies.length ? "open-thread" : "open-thread quiet", "data-testid": "open-thread", "data-focus": "thread",
      onclick: () => page.openThread(message.ts),
    },
    told,
    replies.length ? make("span", { class: "faint" }, ` last ${clock(Number(replies.at(-1).ts))}`) : null,
  );
}

// The message that a thread hangs on: who, when, and the first that it says. Its buttons stay in the channel.
export function parentItem(message, page) {
  const first = message.blocks?.filter((block) => ["header", "section"].includes(block.type)).slice(0, 2);
  return {
    key: message.ts,
    mark: JSON.stringify([message.text, message.blocks, page.state.me]),
    draw: () =>
      make(
        "div",
        { class: "first", "data-testid": "parent", "data-ts": message.ts },
        make("p", { class: "head" }, make("strong", { dir: "auto" }, page.state.names[message.user] ?? message.user), badge(message, page.state), time(message.ts)),
        ...(first?.length ? drawBlocks(first, page.look, null, null) : [make("p", { class: "text", dir: "auto" }, mrkdwn(message.text ?? "", page.look))]),
      ),
  };
}
