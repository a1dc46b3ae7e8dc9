/** The section Try it: a prompt and its responses, scored by one version or by two side by side. */

import { ApiError, hasKey, send } from "./api.js";
import { askForKey, refused } from "./access.js";
import { byId, element, focusKept, notice } from "./dom.js";
import { decimals, fixed } from "./format.js";

const EXAMPLES = ["17 + 25 is 42.", "It is 41, I am absolutely certain!"];
const MOST = 12;

export class TryIt {
  constructor() {
    for (const text of EXAMPLES) this.#add(text);
    byId("try-add").addEventListener("click", () => this.#add("").focus());
    byId("try-form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#score();
    });
  }

  /** Offer the published versions. The selection stays. */
  know({ versions, serving }) {
    const names = versions.filter(({ status }) => status === "published").map(({ name }) => name).reverse();
    options("try-version", [["", serving ? `current (${serving})` : "current"], ...names.map((name) => [name, name])]);
    options("try-other", [["", "none"], ...names.map((name) => [name, name])]);
  }

  #add(text) {
    const list = byId("try-responses");
    const number = list.children.length + 1;
    const area = element("textarea", { rows: 1, value: text, "aria-label": `Response ${number}` });
    const remove = element("button", {
      type: "button",
      class: "quiet",
      text: "×",
      "aria-label": "Remove this response",
      onclick: () => {
        if (list.children.length < 2) return;
        const next = item.nextElementSibling || item.previousElementSibling;
        item.remove();
        this.#number();
        next.querySelector("textarea").focus();
      },
    });
    const item = element("li", {}, area, remove);
    list.append(item);
    this.#number();
    return area;
  }

  #number() {
    const areas = [...byId("try-responses").querySelectorAll("textarea")];
    areas.forEach((area, i) => area.setAttribute("aria-label", `Response ${i + 1}`));
    byId("try-add").disabled = areas.length >= MOST;
  }

  async #score() {
    const prompt = byId("try-prompt").value;
    const responses = [...byId("try-responses").querySelectorAll("textarea")].map((area) => area.value);
    const chosen = [byId("try-version").value, byId("try-other").value];
    const button = byId("try-score");
    const refocus = focusKept(); // a disabled button loses it
    notice("try-error", "");
    button.disabled = true;
    button.textContent = "Scoring …";
    try {
      const first = await scored(prompt, responses, chosen[0]);
      const columns = [first];
      if (chosen[1]) columns.push(await scored(prompt, responses, chosen[1]));
      show(responses, columns);
    } catch (error) {
      notice("try-error", `No scores: ${error.message}`);
      byId("try-result").replaceChildren();
      if (error instanceof ApiError && error.isAboutKeys) askForKey("score", "Scoring needs a key.", hasKey() ? refused(error) : "");
    }
    button.disabled = false;
    button.textContent = "Score";
    refocus();
  }
}

function options(id, choices) {
  const select = byId(id);
  const before = select.value;
  const now = choices.map(([value, text]) => `${value}:${text}`).join("|");
  if (select.dataset.choices === now) return;
  select.dataset.choices = now;
  select.replaceChildren(...choices.map(([value, text]) => element("option", { value, text })));
  if (choices.some(([value]) => value === before)) select.value = before;
}

async function scored(prompt, responses, version) {
  const body = { groups: [{ prompt, responses }], log: false };
  if (version) body.version = version;
  const { groups } = await send("POST", "score", body);
  return groups[0];
}

function show(responses, columns) {
  const all = columns.flatMap(({ scores }) => scores);
  const [low, high] = [Math.min(...all), Math.max(...all)];
  const places = Math.max(3, decimals(high - low)); // the scores differ in what is shown
  const heads = columns.map(({ version }) => element("th", { scope: "col", text: version }));
  const rows = responses.map((text, i) =>
    element(
      "tr",
      {},
      element("th", { scope: "row", class: "text" }, text || "(empty)", under(columns[0], i)),
      ...columns.map((column) => score(column, i, low, high, places)),
    ),
  );
  byId("try-result").replaceChildren(
    element(
      "table",
      { class: "scores" },
      element("caption", { text: "Calibrated scores; the best score of each version is marked" }),
      element("thead", {}, element("tr", {}, element("th", { scope: "col", text: "Response" }), ...heads)),
      element("tbody", {}, ...rows),
    ),
  );
}

function under({ tokens, truncated }, i) {
  return element("small", { text: ` ${tokens[i]} tokens${truncated[i] ? ", truncated" : ""}` });
}

function score({ scores }, i, low, high, places) {
  const best = scores[i] === Math.max(...scores);
  const share = high > low ? (scores[i] - low) / (high - low) : 1;
  const bar = element("meter", { min: 0, max: 1, value: share, "aria-hidden": "true" });
  const mark = best && scores.length > 1 ? element("span", { class: "chip good", text: "best" }) : null;
  return element("td", {}, element("span", { class: "number", text: fixed(scores[i], places) }), bar, mark);
}
