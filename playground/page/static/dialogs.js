// Forms, confirm dialogs and the reader of files.
import { drawForm, filledIn } from "./blocks.js";
import { make } from "./dom.js";
import { markdown } from "./markdown.js";

const modal = document.getElementById("modal");
const paper = document.getElementById("document");
const asked = document.getElementById("confirm");

// ---------------------------------------------------------------- the confirm dialog of a button

// Resolves to whether the person said yes. `ask`: Slack's confirm object.
export function confirmed(ask) {
  return new Promise((answer) => {
    const done = (yes) => {
      asked.onclose = null;
      asked.close();
      answer(yes);
    };
    asked.setAttribute("aria-label", ask.title.text);
    asked.replaceChildren(
      make("h2", {}, ask.title.text),
      make("p", {}, ask.text.text),
      make(
        "p",
        { class: "row end" },
        make("button", { type: "button", "data-testid": "confirm-no", onclick: () => done(false) }, ask.deny.text),
        make("button", { type: "button", class: ask.style === "danger" ? "danger" : "primary", "data-testid": "confirm-yes", onclick: () => done(true) }, ask.confirm.text),
      ),
    );
    asked.onclose = () => answer(false);
    asked.showModal();
  });
}

// ---------------------------------------------------------------- forms

let shown = null;

// Show the person's topmost form, or none. What was typed stays while it is the same form.
export function showView(view, look, act) {
  if (!view) {
    shown = null;
    if (modal.open) modal.close();
    return;
  }
  const errors = view.errors ?? {};
  const same = shown === `${view.id} ${view.hash}`;
  if (!same) drawView(view, look, errors, act);
  shown = `${view.id} ${view.hash}`;
  for (const place of modal.querySelectorAll("[data-error]")) {
    place.textContent = errors[place.dataset.error] ?? "";
    place.hidden = !errors[place.dataset.error];
  }
  if (!modal.open) modal.showModal();
}

function drawView(view, look, errors, act) {
  const close = () => act("close", { view: view.id });
  const send = make("button", { type: "submit", class: "primary", "data-testid": "modal-submit" }, view.submit?.text ?? "Submit");
  const form = make(
    "form",
    {
      onsubmit: async (event) => {
        event.preventDefault();
        send.disabled = true;
        await act("submit", { view: view.id, values: filledIn(form) });
        send.disabled = false;
      },
    },
    make("h2", {}, view.title.text),
    ...drawForm(view.blocks, look, errors),
    make(
      "p",
      { class: "row end" },
      make("button", { type: "button", "data-testid": "modal-close", onclick: close }, view.close?.text ?? "Cancel"),
      view.submit ? send : null,
    ),
  );
  modal.setAttribute("aria-label", view.title.text);
  modal.replaceChildren(form);
  modal.oncancel = (event) => {
    event.preventDefault();
    close();
  };
}

// ---------------------------------------------------------------- files

export async function showFile(file) {
  const body = make("article", { class: "document", tabindex: "0" }, make("p", { class: "faint" }, "Opening."));
  const close = make("button", { type: "button", "data-testid": "document-close", onclick: () => paper.close() }, "Close");
  paper.setAttribute("aria-label", file.name);
  paper.replaceChildren(make("div", { class: "bar" }, make("h2", { dir: "auto" }, file.name), close), body);
  paper.showModal();
  try {
    const answer = await fetch(`app/file/${encodeURIComponent(file.id)}`);
    const text = await answer.text();
    if (!answer.ok) throw new TypeError(text);
    if (/\.(md|markdown)$/i.test(file.name)) body.replaceChildren(...markdown(text));
    else body.replaceChildren(make("pre", {}, text));
  } catch (error) {
    body.replaceChildren(make("p", { class: "error", role: "alert" }, `The file could not be opened: ${error.message}. Close this and try again.`));
  }
}
