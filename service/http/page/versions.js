/** The section Versions: the state of each version, and the actions on it. */

import { change, read } from "./api.js";
import { withAdmin } from "./access.js";
import { agreed } from "./asking.js";
import { byId, element, notice, say, toast } from "./dom.js";
import { fixed, percent, when } from "./format.js";

const PIN = "stable";
const SHOWN = 30; // the newest versions

export class Versions {
  /** `changed` is called after each action, `listed` with each list of versions. */
  constructor(changed, listed) {
    this.changed = changed;
    this.listed = listed;
    this.labels = [];
    this.busy = false;
  }

  async load() {
    try {
      const list = await read("versions");
      this.labels = await read("labels");
      notice("versions-error", "");
      this.#show(list);
      this.listed(list);
    } catch (error) {
      notice("versions-error", `The versions cannot be read: ${error.message}.`);
      throw error;
    }
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
    const entries = versions.toReversed().slice(0, SHOWN);
    const items = entries.map((entry) => this.#item(entry, current, serving, withdrawn.get(entry.name), refused));
    const none = element("li", { class: "none", text: "There is no version yet. The first one is being trained." });
    byId("version-list").replaceChildren(...(items.length ? items : [none]));
  }

  #item(entry, current, serving, rollback, refused) {
    const accuracy = entry.verdict?.figures?.held_out_accuracy;
    const parents = entry.verdict?.figures?.parent_accuracy;
    const labels = this.labels.filter(({ version }) => version === entry.name);
    const reasons = [
      ...entry.reasons,
      ...(rollback ? [`rolled back by its watch: ${rollback.reason}`] : []),
      ...(refused?.name === entry.name ? [`this server refuses to load it: ${refused.reason}`] : []),
    ];
    return element(
      "li",
      { class: `version ${entry.status}${entry.serving ? " current" : ""}` },
      element(
        "div",
        { class: "what" },
        element("h2", {}, entry.name),
        entry.serving ? element("span", { class: "chip good", text: "serving" }) : null,
        entry.current && !entry.serving ? element("span", { class: "chip", text: "current" }) : null,
        ...statusChips(entry, rollback),
        ...labels.map((label) => this.#label(label)),
      ),
      element("p", { class: "facts", text: facts(entry, accuracy, parents) }),
      reasons.length ? element("ul", { class: "reasons" }, ...reasons.map((text) => element("li", { text }))) : null,
      entry.status === "published" ? this.#buttons(entry, current) : null,
    );
  }

  #label({ label, version, share, shadow }) {
    const text = `${label}${share ? ` ${percent(share)}${shadow ? " shadow" : ""}` : ""}`;
    const remove = () =>
      this.#do(`Remove the label ${label}`, {
        text: `Requests for “${label}” will be refused, and ${version} may leave memory and disk.`,
        go: "Remove it",
        work: () => change("DELETE", `labels/${label}`),
        done: `The label ${label} is removed.`,
      });
    const button = element("button", { type: "button", text: "×", "aria-label": `Remove the label ${label}`, onclick: remove });
    return element("span", { class: "chip label" }, text, button);
  }

  #buttons({ name }, current) {
    const older = current !== null && name < current && name.length <= current.length;
    const buttons = [];
    if (name !== current) {
      const what = older ? `Roll back to ${name}` : `Activate ${name}`;
      const activate = () =>
        this.#do(what, {
          text: `All live servers load ${name} and switch to it together; ${current} stays on disk.`,
          go: older ? "Roll back" : "Activate",
          work: () => change("POST", `versions/${name}/activate`, {}),
          done: `${name} is serving.`,
        });
      buttons.push(element("button", { type: "button", text: older ? "Roll back" : "Activate", "aria-label": what, onclick: activate }));
    }
    const pin = element("button", { type: "button", class: "quiet", text: "Pin…", "aria-label": `Pin ${name}`, onclick: () => this.#pin(name) });
    return element("div", { class: "actions" }, ...buttons, pin);
  }

  #pin(name) {
    const label = element("input", { id: "pin-label", value: PIN, required: true, pattern: "[a-z][a-z0-9_\\-]{0,62}", spellcheck: false });
    this.#do(`Pin ${name}`, {
      text: `A label keeps ${name} in memory on every server and on disk. Requests with "version": "${PIN}" are scored by it, whichever version is serving.`,
      fields: [element("label", { for: "pin-label", text: "Label" }), label],
      go: "Pin it",
      work: () => change("PUT", `labels/${encodeURIComponent(label.value)}`, { version: name }),
      done: `${name} is pinned.`,
    });
  }

  /** Ask for confirmation, run the call with an admin key if needed, and show the outcome. */
  async #do(title, { text, go, fields, work, done }) {
    if (this.busy || !(await agreed({ title, text, go, fields }))) return;
    this.busy = true;
    byId("version-list").classList.add("busy");
    toast(`${title} …`);
    try {
      const answer = await withAdmin(title, work);
      if (answer !== null) toast(done);
    } catch (error) {
      notice("versions-error", `${title}: ${error.message}`);
      say("toast", "");
      byId("toast").hidden = true;
      this.busy = false;
      byId("version-list").classList.remove("busy");
      return;
    }
    this.busy = false;
    byId("version-list").classList.remove("busy");
    this.changed();
  }
}

function statusChips({ status, verdict }, rollback) {
  const chips = [];
  if (status !== "published") chips.push(element("span", { class: `chip ${status === "pruned" ? "" : "bad"}`, text: status }));
  if (status === "published" && verdict?.accepted) chips.push(element("span", { class: "chip", text: "accepted" }));
  if (verdict?.forced) chips.push(element("span", { class: "chip warn", text: "forced" }));
  if (rollback) chips.push(element("span", { class: "chip bad", text: "rolled back" }));
  return chips;
}

function facts({ parent, method, created, samples }, accuracy, parents) {
  const groups = samples?.counts?.used;
  const measured = accuracy === undefined || accuracy === null ? "" : `held-out accuracy ${fixed(accuracy, 3)}`;
  const before = measured && parents !== undefined && parents !== null ? ` (parent ${fixed(parents, 3)})` : "";
  return [
    parent ? `from ${parent}` : "first of its line",
    method,
    groups ? `${groups} sample groups` : "",
    measured + before,
    created ? when(created) : "",
  ]
    .filter(Boolean)
    .join(" · ");
}
