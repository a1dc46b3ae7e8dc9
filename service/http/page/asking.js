/** The confirmation dialog of every change. */

import { byId, say } from "./dom.js";

/** Resolves to true if the user confirms. `fields` are form elements to show. */
export async function agreed({ title, text, go, fields = [] }) {
  const dialog = byId("ask-dialog");
  say("ask-title", title);
  say("ask-text", text);
  say("ask-go", go);
  byId("ask-fields").replaceChildren(...fields);
  dialog.returnValue = "";
  dialog.showModal();
  await new Promise((resolve) => dialog.addEventListener("close", resolve, { once: true }));
  return dialog.returnValue === "go";
}
