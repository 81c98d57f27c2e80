// Slack's mrkdwn as DOM nodes: *bold* _italic_ ~strike~ `code` ```block``` <url|label> <@U> <#C> <!date^...^...|fallback> and its three entities.
import { clock, make } from "./dom.js";

const MARKS =
  /```\n?([\s\S]*?)\n?```\n?|`([^`\n]+)`|<([^<>\n]+)>|(?<![\p{L}\p{N}*_~])([*_~])(?=\S)((?:(?!\4)[^\n])+?)(?<=\S)\4(?![\p{L}\p{N}*_~])/gu;
const TAGS = { "*": "strong", "_": "em", "~": "s" };

// `names`: id -> name; `me`: whose mention stands out; `open`: called with (channel, ts) for a link to a message of this workspace.
export function mrkdwn(text, look) {
  const into = document.createDocumentFragment();
  let from = 0;
  for (const found of text.matchAll(MARKS)) {
    into.append(plain(text.slice(from, found.index)));
    into.append(marked(found, look));
    from = found.index + found[0].length;
  }
  into.append(plain(text.slice(from)));
  return into;
}

function marked([, block, code, link, mark, inner], look) {
  if (block !== undefined) return make("pre", { tabindex: "0" }, plain(block));
  if (code !== undefined) return make("code", {}, plain(code));
  if (link !== undefined) return reference(link, look);
  return make(TAGS[mark], {}, mrkdwn(inner, look));
}

export function plain(text) {
  return text.replaceAll("&lt;", "<").replaceAll("&gt;", ">").replaceAll("&amp;", "&");
}

function reference(inside, look) {
  const [target, label] = split(inside);
  const kind = target[0];
  if (kind === "@") {
    const id = target.slice(1);
    return make("span", { class: id === look.me ? "mention me" : "mention" }, `@${label || look.names[id] || id}`);
  }
  if (kind === "#") return make("span", { class: "mention" }, `#${label || look.names[target.slice(1)] || target.slice(1)}`);
  if (target.startsWith("!date^")) return date(target, label);
  if (kind === "!") return make("span", { class: "mention" }, label || `@${target.slice(1).replace(/^subteam\^/, "")}`);
  return anchor(plain(target), plain(label || target), look);
}

function split(inside) {
  const bar = inside.indexOf("|");
  return bar < 0 ? [inside, ""] : [inside.slice(0, bar), inside.slice(bar + 1)];
}

export function anchor(target, label, look) {
  const here = /^https?:\/\/[^/]+\/archives\/([CDG]\w+)\/p(\d+)(\d{6})$/.exec(target);
  if (here && look.open) {
    const open = () => look.open(here[1], `${here[2]}.${here[3]}`);
    return make("button", { type: "button", class: "link", onclick: open }, label === target ? "the card" : label);
  }
  if (!/^(https?:\/\/|mailto:)/i.test(target)) return document.createTextNode(label);
  return make("a", { href: target, target: "_blank", rel: "noopener noreferrer" }, label);
}

function date(target, fallback) {
  const [, seconds, format = ""] = target.split("^");
  const at = new Date(Number(seconds) * 1000);
  if (!/^\d{1,11}$/.test(seconds) || Number.isNaN(at.getTime())) return document.createTextNode(fallback);
  const told = format.replace(/\{(\w+)\}/g, (whole, part) => (parts[part] ? parts[part](at) : whole));
  return make("time", { datetime: at.toISOString(), title: at.toUTCString() }, told);
}

const parts = {
  date_num: (at) => at.toISOString().slice(0, 10),
  date: (at) => at.toLocaleDateString(undefined, { dateStyle: "long" }),
  date_short: (at) => at.toLocaleDateString(undefined, { dateStyle: "medium" }),
  date_short_pretty: pretty,
  date_pretty: pretty,
  time: (at) => clock(at.getTime() / 1000),
};

function pretty(at) {
  const days = Math.round((new Date(at).setHours(0, 0, 0, 0) - new Date().setHours(0, 0, 0, 0)) / 86_400_000);
  return { "-1": "yesterday", "0": "today", "1": "tomorrow" }[days] ?? parts.date_short(at);
}
