// Files that people read: Markdown as a document, everything else as it is. A small renderer for what reports hold.
import { make } from "./dom.js";
import { anchor } from "./text.js";

const INLINE = /\\([!-/:-@[-`{-~])|(`+)((?:(?!\2)[\s\S])+)\2|\*\*((?:(?!\*\*).)+)\*\*|(?<![\p{L}\p{N}_*])([_*])(?=\S)((?:(?!\5).)+?)(?<=\S)\5(?![\p{L}\p{N}_*])|~~((?:(?!~~).)+)~~|\[([^\]]+)\]\(([^)\s]+)\)/gu;

export function inline(text) {
  const into = document.createDocumentFragment();
  let from = 0;
  for (const found of text.matchAll(INLINE)) {
    const [whole, escaped, , code, strong, , em, struck, label, target] = found;
    into.append(text.slice(from, found.index));
    if (escaped !== undefined) into.append(escaped);
    else if (code !== undefined) into.append(make("code", {}, code));
    else if (strong !== undefined) into.append(make("strong", {}, inline(strong)));
    else if (em !== undefined) into.append(make("em", {}, inline(em)));
    else if (struck !== undefined) into.append(make("s", {}, inline(struck)));
    else into.append(anchor(target, label, {}));
    from = found.index + whole.length;
  }
  into.append(text.slice(from));
  return into;
}

// The nodes of a whole Markdown file.
export function markdown(text) {
  const lines = text.split(/\r?\n/);
  const nodes = [];
  let place = 0;
  while (place < lines.length) {
    const rule = RULES.find(([is]) => is(lines, place));
    const [node, next] = rule[1](lines, place);
    if (node !== null) nodes.push(node);
    place = next;
  }
  return nodes;
}

const FENCE = /^\s*(```+|~~~+)/;
const HEADING = /^(#{1,6})\s+(.*?)\s*#*$/;
const ITEM = /^(\s*)([-*+]|\d+[.)])\s+(?:\[([ xX])\]\s+)?(.*)$/;
const RULE = /^\s*([-*_])(\s*\1){2,}\s*$/;
const DELIMITER = /^\s*\|?\s*:?-+:?\s*(\|\s*:?-+:?\s*)*\|?\s*$/;

const isTable = (lines, place) => lines[place].includes("|") && place + 1 < lines.length && lines[place + 1].includes("-") && DELIMITER.test(lines[place + 1]);
const begins = (lines, place) => RULES.slice(0, -1).some(([is]) => is(lines, place));

const RULES = [
  [(lines, place) => lines[place].trim() === "", (lines, place) => [null, place + 1]],
  [(lines, place) => FENCE.test(lines[place]), fenced],
  [(lines, place) => HEADING.test(lines[place]), heading],
  [(lines, place) => RULE.test(lines[place]), (lines, place) => [make("hr"), place + 1]],
  [isTable, table],
  [(lines, place) => ITEM.test(lines[place]), list],
  [(lines, place) => lines[place].startsWith(">"), quote],
  [() => true, paragraph],
];

function fenced(lines, place) {
  const mark = FENCE.exec(lines[place])[1];
  let end = place + 1;
  while (end < lines.length && !lines[end].trim().startsWith(mark)) end += 1;
  return [make("pre", { tabindex: "0" }, lines.slice(place + 1, end).join("\n")), end + 1];
}

function heading(lines, place) {
  const [, marks, words] = HEADING.exec(lines[place]);
  return [make(`h${marks.length}`, {}, inline(words)), place + 1];
}

function cells(line) {
  return line.trim().replace(/^\|/, "").replace(/(?<!\\)\|$/, "").split(/(?<!\\)\|/).map((cell) => cell.trim());
}

function table(lines, place) {
  let end = place + 2;
  while (end < lines.length && lines[end].includes("|")) end += 1;
  const head = cells(lines[place]);
  const row = (tag, line) => make("tr", {}, ...head.map((_, at) => make(tag, {}, inline(line[at] ?? ""))));
  const body = lines.slice(place + 2, end).map((line) => row("td", cells(line)));
  const top = head.some(Boolean) ? make("thead", {}, row("th", head)) : null;
  return [make("div", { class: "wide", tabindex: "0" }, make("table", {}, top, make("tbody", {}, ...body))), end];
}

function list(lines, place) {
  const [, margin, sign] = ITEM.exec(lines[place]);
  const made = make(/\d/.test(sign) ? "ol" : "ul");
  let end = place;
  while (end < lines.length) {
    const found = ITEM.exec(lines[end]);
    if (found && found[1].length > margin.length && made.lastElementChild) {
      const [inner, next] = list(lines, end);
      made.lastElementChild.append(inner);
      end = next;
    } else if (found && found[1].length === margin.length && /\d/.test(found[2]) === /\d/.test(sign)) {
      made.append(item(found));
      end += 1;
    } else if (!found && lines[end].trim() !== "" && /^\s/.test(lines[end]) && made.lastElementChild) {
      made.lastElementChild.append(" ", inline(lines[end].trim()));
      end += 1;
    } else break;
  }
  return [made, end];
}

function item([, , , box, words]) {
  if (box === undefined) return make("li", {}, inline(words));
  const ticked = box !== " ";
  return make("li", { class: "task" }, make("input", { type: "checkbox", disabled: true, checked: ticked, "aria-label": ticked ? "done" : "to do" }), " ", inline(words));
}

function quote(lines, place) {
  let end = place;
  while (end < lines.length && lines[end].startsWith(">")) end += 1;
  return [make("blockquote", {}, ...markdown(lines.slice(place, end).map((line) => line.replace(/^> ?/, "")).join("\n"))), end];
}

function paragraph(lines, place) {
  let end = place + 1;
  while (end < lines.length && !begins(lines, end)) end += 1;
  return [make("p", {}, inline(lines.slice(place, end).join(" "))), end];
}
