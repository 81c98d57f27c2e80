// Making nodes. Whatever comes from a message goes in as text, never as markup.

export function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : String(value));
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

const marks = new WeakMap();

// Make the list hold exactly these items, [{key, mark, draw}]: a node stays as it is while its mark is the same.
export function sync(list, items) {
  const old = new Map([...list.children].map((node) => [node.dataset.key, node]));
  let place = list.firstElementChild;
  for (const item of items) {
    let node = old.get(item.key);
    old.delete(item.key);
    if (node === undefined || marks.get(node) !== item.mark) {
      const fresh = item.draw();
      fresh.dataset.key = item.key;
      marks.set(fresh, item.mark);
      if (node !== undefined) {
        if (node === place) place = fresh;
        keepingFocus(node, fresh, () => node.replaceWith(fresh));
      }
      node = fresh;
    }
    if (node === place) place = place.nextElementSibling;
    else list.insertBefore(node, place);
  }
  for (const node of old.values()) node.remove();
}

// Who was on a button stays on it when its message is drawn anew.
function keepingFocus(old, fresh, change) {
  const focused = old.contains(document.activeElement) ? document.activeElement.dataset.focus : undefined;
  change();
  if (focused === undefined) return;
  for (const node of fresh.querySelectorAll("[data-focus]")) {
    if (node.dataset.focus === focused) node.focus({ preventScroll: true });
  }
}

// A list that shows its end goes on showing it, when something is added and when its room changes.
export function stickToEnd(list) {
  let atEnd = true;
  const keep = () => {
    if (atEnd) list.scrollTop = list.scrollHeight;
  };
  list.addEventListener("scroll", () => {
    atEnd = list.scrollHeight - list.scrollTop - list.clientHeight < 60;
  });
  new ResizeObserver(keep).observe(list);
  new MutationObserver(keep).observe(list, { childList: true, subtree: true });
}

export function clock(seconds) {
  return new Date(seconds * 1000).toLocaleTimeString(undefined, { hour: "numeric", minute: "2-digit" });
}

export function initials(name) {
  return name.replace(/[^\p{L}\p{N} ]/gu, "").split(/\s+/).filter(Boolean).slice(0, 2).map((word) => word[0].toUpperCase()).join("") || "?";
}

// One of six colours, the same for the same person.
export function shade(id) {
  let sum = 0;
  for (const letter of id) sum = (sum * 31 + letter.codePointAt(0)) % 997;
  return `shade${sum % 6}`;
}
