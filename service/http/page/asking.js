/** The changes that a user makes: each is confirmed in a dialog, and its outcome is shown. */

import { withAdmin } from "./access.js";
import { answerOf } from "./dialogs.js";
import { byId, focusKept, say, toast } from "./dom.js";

const underWay = new Set(); // titles

byId("action-dismiss").addEventListener("click", () => {
  const refocus = focusKept();
  failed("");
  refocus();
});

/**
 * Ask for confirmation, run `work` with an admin key if needed, and say `done`, or why it failed: that stays
 * until it is dismissed or the next attempt. `changed` is called afterwards.
 */
export async function perform(title, { work, done, ...question }, changed) {
  if (underWay.has(title)) {
    toast(`${title}: still under way.`);
    return;
  }
  if (!(await agreed(title, question))) return;
  follow(title, true);
  failed("");
  toast(`${title} …`);
  try {
    const answer = await withAdmin(title, work);
    toast(answer === null ? "" : done);
  } catch (error) {
    toast("");
    failed(`${title}: ${error.message}`);
  }
  follow(title, false);
  changed();
}

function follow(title, begins) {
  if (begins) underWay.add(title);
  else underWay.delete(title);
  byId("version-list").classList.toggle("busy", underWay.size > 0);
}

/** Whether the user confirms. `fields` are form elements to show; a `destructive` change begins on Cancel. */
async function agreed(title, { text, go, fields = [], destructive = false }) {
  const dialog = byId("ask-dialog");
  say("ask-title", title);
  say("ask-text", text);
  say("ask-go", go);
  byId("ask-fields").replaceChildren(...fields);
  const field = fields.find((each) => each.matches("input")); // Enter in a select would open it
  return (await answerOf(dialog, destructive ? dialog.querySelector(".cancel") : field || byId("ask-go"))) === "go";
}

function failed(text) {
  byId("action-error").hidden = !text;
  say("action-why", text);
  if (text) byId("action-error").scrollIntoView({ block: "nearest" });
}
