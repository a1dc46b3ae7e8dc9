/** The section Versions: the state of each version, and the actions on it. */

import { read, send } from "./api.js";
import { perform } from "./asking.js";
import { byId, element, focusKept, notice } from "./dom.js";
import { count, fixed, percent, when } from "./format.js";
import { heldOutSets } from "./held_out.js";
import { drawn, rows, width } from "./lineage.js";

const PIN = "stable";
const SHOWN = 30; // the newest versions

export class Versions {
  /** `changed` is called after each action, `listed` with each list of versions. */
  constructor(changed, listed) {
    this.changed = changed;
    this.listed = listed;
    this.labels = [];
    this.none = ""; // why there is no version
  }

  async load() {
    try {
      const list = await read("versions");
      this.labels = await read("labels");
      notice("versions-error", "");
      this.#show(list);
      this.listed(list);
    } catch (error) {
      notice("versions-error", error.isAboutKeys ? "" : `The versions cannot be read: ${error.message}.`);
      throw error;
    }
  }

  /** Take why no version is loaded; "" once one is. */
  waitFor(fault) {
    this.none = fault;
    const shown = byId("version-list").querySelector(".none");
    if (shown) shown.textContent = this.#nothing();
  }

  /** Show the watch over a promoted version (GET /drift). */
  showWatch({ watching }) {
    const text = watching
      ? `${watching.version} is under watch against ${watching.parent}: ${watching.answered_groups} groups answered, ` +
        `${watching.compared.groups} compared. It is rolled back automatically if they show that it is worse.`
      : "";
    notice("watch", text);
  }

  #show({ current, serving, versions, rollbacks, refused }) {
    const withdrawn = new Map(rollbacks.map((rollback) => [rollback.version, rollback]));
    const entries = versions.toReversed().filter((entry, i) => i < SHOWN || entry.current || entry.serving);
    const sets = heldOutSets(entries.filter((entry) => accuracyOf(entry) !== null).reverse());
    const lines = rows(entries);
    const items = entries.map((entry, i) =>
      this.#item(entry, current, { line: lines[i], letter: sets.letter(entry), rollback: withdrawn.get(entry.name), refused }),
    );
    const none = element("li", { class: "none", text: this.#nothing() });
    const list = byId("version-list");
    const refocus = focusKept();
    list.style.setProperty("--lanes", width(lines));
    list.replaceChildren(...(items.length ? items : [none]));
    refocus();
    notice("held-out", sets.legend);
  }

  #nothing() {
    return this.none || "There is no version yet.";
  }

  #item(entry, current, { line, letter, rollback, refused }) {
    const labels = this.labels.filter(({ version }) => version === entry.name);
    const reasons = [
      ...entry.reasons,
      ...(entry.rolled_back && rollback ? [`rolled back by its watch: ${rollback.reason}`] : []),
      ...(refused?.name === entry.name ? [`this server refuses to load it: ${refused.reason}`] : []),
    ];
    return element(
      "li",
      { class: `version ${entry.status}${entry.serving ? " current" : ""}`, id: entry.name, tabIndex: -1 },
      drawn(line),
      element(
        "div",
        { class: "what" },
        element("h2", {}, entry.name),
        entry.serving ? element("span", { class: "chip good", text: "serving" }) : null,
        entry.current && !entry.serving ? element("span", { class: "chip", text: "current" }) : null,
        ...statusChips(entry),
        ...labels.map((label) => this.#label(label)),
      ),
      element("p", { class: "facts" }, ...facts(entry, letter)),
      entry.evaluations.length ? element("p", { class: "facts evaluation", text: evaluation(entry.evaluations[0]) }) : null,
      reasons.length ? element("ul", { class: "reasons" }, ...reasons.map((text) => element("li", { text }))) : null,
      entry.status === "published" ? this.#buttons(entry, current) : null,
    );
  }

  #label({ label, version, share, shadow }) {
    const text = `${label}${share ? ` ${percent(share)}${shadow ? " shadow" : ""}` : ""}`;
    const question = {
      text: `Requests for “${label}” will be refused, and ${version} may leave memory and disk.`,
      go: "Remove it",
      destructive: true,
      work: () => send("DELETE", `labels/${label}`),
      done: `The label ${label} is removed.`,
    };
    const remove = () => perform(`Remove the label ${label}`, question, this.changed);
    const button = element("button", { type: "button", id: `remove-${label}`, text: "×", "aria-label": `Remove the label ${label}`, onclick: remove });
    return element("span", { class: "chip label" }, text, button);
  }

  #buttons({ name }, current) {
    const older = current !== null && name < current && name.length <= current.length;
    const buttons = [];
    if (name !== current) {
      const what = older ? `Roll back to ${name}` : `Activate ${name}`;
      const question = {
        text: `All live servers load ${name} and switch to it together${current ? `; ${current} stays on disk` : ""}.`,
        go: older ? "Roll back" : "Activate",
        work: () => send("POST", `versions/${name}/activate`, {}),
        done: `${name} is serving.`,
      };
      const activate = () => perform(what, question, this.changed);
      buttons.push(element("button", { type: "button", id: `activate-${name}`, text: older ? "Roll back" : "Activate", "aria-label": what, onclick: activate }));
    }
    const pin = element("button", { type: "button", id: `pin-${name}`, class: "quiet", text: "Pin…", "aria-label": `Pin ${name}`, onclick: () => this.#pin(name) });
    return element("div", { class: "actions" }, ...buttons, pin);
  }

  #pin(name) {
    const label = element("input", { id: "pin-label", value: PIN, required: true, pattern: "[a-z][a-z0-9_\\-]{0,62}", spellcheck: false });
    const question = {
      text: `A label keeps ${name} in memory on every server and on disk. Requests with "version": "${PIN}" are scored by it, whichever version is serving.`,
      fields: [element("label", { for: "pin-label", text: "Label" }), label],
      go: "Pin it",
      work: () => send("PUT", `labels/${encodeURIComponent(label.value)}`, { version: name }),
      done: `${name} is pinned.`,
    };
    perform(`Pin ${name}`, question, this.changed);
  }
}

function statusChips({ status, verdict, rolled_back: left }) {
  const chips = [];
  if (status !== "published") chips.push(element("span", { class: `chip ${status === "pruned" ? "" : "bad"}`, text: status }));
  if (left) chips.push(element("span", { class: "chip bad", text: "rolled back" }));
  else if (status === "published" && verdict?.accepted) chips.push(element("span", { class: "chip", text: "accepted" }));
  if (verdict?.forced) chips.push(element("span", { class: "chip warn", text: "forced" }));
  return chips;
}

const accuracyOf = ({ held_out_accuracy: accuracy }) => accuracy ?? null;

/** What `metarm evaluate` measured last. */
function evaluation({ preferences, accuracy, interval, parent, change, longer_wins: longer }) {
  const span = (low, high, digits = fixed) => `${digits(low, 3)} to ${digits(high, 3)}`;
  const parts = [
    `evaluated on ${preferences.source.split("/").at(-1)}, ${count(preferences.pairs)} pairs: ${fixed(accuracy, 3)} (95%: ${span(...interval)})`,
    change ? `${signed(change.mean)} from ${parent} (95%: ${span(change.low, change.high, signed)}; p ${fixed(change.p, 3)})` : "",
    `longer wins ${fixed(longer, 3)}`,
  ];
  return parts.filter(Boolean).join(" · ");
}

const signed = (value) => `${value < 0 ? "−" : "+"}${fixed(Math.abs(value), 3)}`;

/** The line under a version's name, as texts and elements. `letter` names the pairs of its accuracy. */
function facts(entry, letter) {
  const { parent, method, created, samples, verdict } = entry;
  const groups = samples?.counts?.used;
  const accuracy = accuracyOf(entry);
  const before = verdict?.figures?.parent_accuracy ?? null;
  const mark = letter ? [" ", element("sup", { text: letter })] : [];
  const measured = [`held-out accuracy ${fixed(accuracy, 3)}`, ...mark, before === null ? "" : ` (parent ${fixed(before, 3)})`];
  const parts = [
    [parent ? `from ${parent}` : "first of its line"],
    method ? [method] : [],
    groups ? [`${groups} sample groups`] : [],
    accuracy === null ? [] : measured,
    created ? [when(created)] : [],
  ];
  return parts.filter((part) => part.length).flatMap((part, i) => (i ? [" · ", ...part] : part));
}
