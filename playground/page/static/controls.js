// The demo's own part of the page: the shop's health, the bot's life, the incident, and Slack's bad days.
import { make } from "./dom.js";

const find = (id) => document.getElementById(id);
const TROUBLES = [
  ["429", "Too many calls (429)"],
  ["503-before", "Lose the next post (503)"],
  ["503-after", "Store it, answer 503"],
  ["drop", "Cut the sockets"],
  ["redeliver", "Deliver the last again"],
];

export function listenToControls(page, done) {
  const on = (id, name, args = () => ({})) =>
    find(id).addEventListener("click", async () => {
      find(id).disabled = true;
      await page.act(name, args());
      find(id).disabled = false;
      done();
    });
  on("bot-kill", "kill");
  on("bot-start", "start");
  on("unblock", "unblock");
  on("reset", "reset", () => ({ incident: find("incident").value }));
  find("incident").addEventListener("change", () => sayReset(page.state));
  find("troubles").replaceChildren(
    ...TROUBLES.map(([kind, words]) => make("button", { type: "button", "data-testid": `trouble-${kind}`, onclick: () => page.act("trouble", { kind }) }, words)),
  );
  find("suggestion").addEventListener("click", () => {
    find("composer").value = page.state.suggestion;
    find("composer").focus();
  });
}

export function drawControls(state, before) {
  for (const id of ["shop", "top-shop"]) {
    find(id).dataset.healthy = String(state.shop.healthy);
    const words = id === "shop" ? `The shop: ${state.shop.says}` : state.shop.healthy ? "Checkout works" : "Checkout is down";
    if (find(id).textContent !== words) find(id).textContent = words;
  }
  find("bot").dataset.running = String(state.bot.running);
  find("bot").dataset.ready = String(state.bot.ready);
  find("bot").textContent = botSays(state.bot);
  find("bot-kill").hidden = !state.bot.running;
  find("bot-start").hidden = state.bot.running;
  find("unblock").hidden = !state.blocker;
  find("unblock").textContent = state.blocker ?? "";
  find("suggestion").hidden = !state.suggestion;
  find("suggestion").textContent = state.suggestion ? `Put in the box: ${state.suggestion}` : "";
  drawIncidents(state, before);
}

function botSays(bot) {
  if (bot.ready) return "The bot runs";
  return bot.running ? "The bot starts" : `The bot is dead${bot.problem ? `: ${bot.problem}` : ""}`;
}

// What was chosen stays chosen until a reset begins it.
function drawIncidents(state, before) {
  const select = find("incident");
  if (select.options.length !== state.incidents.length) {
    select.replaceChildren(...state.incidents.map((one) => make("option", { value: one.id }, one.title)));
  }
  if (before === null || before.turn !== state.turn) select.value = state.incident;
  sayReset(state);
}

function sayReset(state) {
  find("reset-says").textContent = find("incident").value === state.incident ? "" : "begins it";
}
