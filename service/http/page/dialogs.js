/** Modal dialogs. Enter does what the dialog proposes, unless the focus is on Cancel; Escape cancels. */

import { focusKept } from "./dom.js";

for (const dialog of document.querySelectorAll("dialog")) {
  // not a submit button: Enter in a field presses the first of those
  dialog.querySelector(".cancel").addEventListener("click", () => dialog.close(""));
  dialog.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && event.repeat) event.preventDefault(); // still held from the button that opened it
  });
}

/** Resolves to the value of the button that closed the dialog, or to "" if it was cancelled. */
export async function answerOf(dialog, focused) {
  const refocus = focusKept();
  dialog.returnValue = "";
  dialog.showModal();
  focused.focus();
  await new Promise((resolve) => dialog.addEventListener("close", resolve, { once: true }));
  refocus();
  return dialog.returnValue;
}
