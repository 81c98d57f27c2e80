// Block Kit, exactly as much as Backout sends. Anything else is shown as an error, so that nobody takes it for drawn.
import { make } from "./dom.js";
import { mrkdwn } from "./text.js";

// `look`: {names, me, open}; `press(block, element)` and `tick(block, element, values)` are called when somebody acts.
export function drawBlocks(blocks, look, press, tick) {
  return blocks.map((block) => (DRAW[block.type] ?? unknown)(block, { look, press, tick }));
}

function unknown(thing) {
  return make("p", { class: "undrawn", role: "alert", "data-testid": "undrawn" }, `This page does not draw “${String(thing.type)}”.`);
}

function words(text, { look }) {
  if (text.type === "plain_text") return make("span", { dir: "auto" }, text.text);
  if (text.type === "mrkdwn") return make("span", { dir: "auto" }, mrkdwn(text.text, look));
  return unknown(text);
}

const DRAW = {
  header: (block, all) => make("h3", { class: "b-header" }, words(block.text, all)),
  divider: () => make("hr", { class: "b-divider" }),
  context: (block, all) => make("div", { class: "b-context" }, ...block.elements.map((each) => words(each, all))),
  section: (block, all) => {
    if (block.accessory) return unknown({ type: "section accessory" });
    const fields = (block.fields ?? []).map((each) => make("div", { class: "b-field" }, words(each, all)));
    return make("div", { class: "b-section" }, block.text && words(block.text, all), fields.length ? make("div", { class: "b-fields" }, ...fields) : null);
  },
  actions: (block, all) => make("div", { class: "b-actions" }, ...block.elements.map((each) => (ACT[each.type] ?? unknown)(each, all, block))),
};

const ACT = {
  button: (element, { press }, block) =>
    make(
      "button",
      {
        type: "button", class: `b-button ${element.style === "primary" ? "primary" : element.style === "danger" ? "danger" : ""}`,
        "data-action-id": element.action_id, "data-block-id": block.block_id, "data-focus": `${block.block_id} ${element.action_id}`,
        "aria-label": element.accessibility_label, onclick: () => press(block, element),
      },
      element.text.text,
    ),
  checkboxes: (element, all, block) => {
    const initial = (element.initial_options ?? []).map((each) => each.value);
    const boxes = element.options.map((each) => {
      const focus = `${block.block_id} ${element.action_id} ${each.value}`;
      const box = make("input", { type: "checkbox", value: each.value, checked: initial.includes(each.value), "data-action-id": element.action_id, "data-focus": focus });
      box.addEventListener("change", () => all.tick(block, element, [...group.querySelectorAll("input:checked")].map((one) => one.value)));
      return make("label", { class: "b-box" }, box, words(each.text, all));
    });
    const group = make("div", { class: "b-boxes", role: "group" }, ...boxes);
    return group;
  },
};

// ---------------------------------------------------------------- in a form

// The blocks of a modal; inputs carry name=block_id.
export function drawForm(blocks, look, errors) {
  return blocks.map((block) => (block.type === "input" ? input(block, errors[block.block_id]) : (FORM[block.type] ?? unknown)(block, { look })));
}

const FORM = { section: DRAW.section, context: DRAW.context, divider: DRAW.divider, header: DRAW.header };

function input(block, error) {
  const draw = INPUT[block.element.type];
  if (!draw) return unknown(block.element);
  const id = `input-${block.block_id}`;
  const control = draw(block.element, { id, name: block.block_id, required: !block.optional, "aria-describedby": `${id}-error` });
  return make(
    "div",
    { class: "b-input" },
    make("label", { for: id }, block.label.text, block.optional ? make("span", { class: "faint" }, " (optional)") : null),
    control,
    block.hint ? make("p", { class: "faint" }, block.hint.text) : null,
    make("p", { class: "error", id: `${id}-error`, role: "alert", "data-error": block.block_id, hidden: !error }, error ?? ""),
  );
}

const INPUT = {
  plain_text_input: (element, attributes) => {
    const more = { placeholder: element.placeholder?.text, maxlength: element.max_length ?? 3000, minlength: element.min_length, autocomplete: "off" };
    const control = element.multiline ? make("textarea", { ...attributes, ...more, rows: "4" }) : make("input", { type: "text", ...attributes, ...more });
    control.value = element.initial_value ?? "";
    return control;
  },
  static_select: (element, attributes) => {
    const options = (element.options ?? []).map((each) => make("option", { value: each.value }, each.text.text));
    const control = make("select", attributes, make("option", { value: "" }, element.placeholder?.text ?? "Choose"), ...options);
    control.value = element.initial_option?.value ?? "";
    return control;
  },
};

// What was filled in, by block_id; what is empty is null, as Slack has it.
export function filledIn(form) {
  const found = {};
  for (const control of form.querySelectorAll("[name]")) found[control.name] = control.value === "" ? null : control.value;
  return found;
}
