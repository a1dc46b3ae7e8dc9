/** API keys: requested when the server refuses a call, tried at once, kept in memory only. */

import { ApiError, hasKey, tryKey, useKey } from "./api.js";
import { byId, notice, say } from "./dom.js";

let asking = null;

/**
 * Ask for a key of a kind (score or admin). Resolves to true once a key is in use, or to false if the user
 * cancels. `refusal` is the server's message about the previous key.
 */
export function askForKey(kind, why, refusal) {
  asking ||= ask(kind, why, refusal).finally(() => {
    asking = null;
  });
  return asking;
}

async function ask(kind, why, refusal) {
  const [dialog, input] = [byId("key-dialog"), byId("key-input")];
  say("key-title", kind === "admin" ? "Admin key" : "API key");
  say("key-why", why);
  notice("key-refused", refusal);
  for (;;) {
    input.value = "";
    dialog.returnValue = "";
    dialog.showModal();
    input.focus();
    await new Promise((resolve) => dialog.addEventListener("close", resolve, { once: true }));
    const key = input.value.trim();
    input.value = "";
    if (dialog.returnValue !== "use" || !key) return false;
    const problem = await refusalOf(kind, key);
    if (!problem) return true;
    notice("key-refused", problem);
  }
}

/** Why the server refuses a key; "" if it accepts the key, which is then in use. */
async function refusalOf(kind, key) {
  try {
    await tryKey(key);
  } catch (error) {
    if (error instanceof ApiError && error.isAboutKeys) return `The server refuses this key: ${error.message}`;
  }
  useKey(kind, key);
  return "";
}

/** Run a call that needs an admin key. If the server refuses it for want of a key, ask for one and retry. */
export async function withAdmin(what, work) {
  for (;;) {
    try {
      return await work();
    } catch (error) {
      if (!(error instanceof ApiError) || !error.isAboutKeys) throw error;
      const refusal = hasKey("admin") ? `The server refuses: ${error.message}` : "";
      useKey("admin", "");
      if (!(await askForKey("admin", `${what} needs an admin key.`, refusal))) return null;
    }
  }
}

export function startAccess(changed) {
  byId("keys").addEventListener("click", async () => {
    if (await askForKey("score", "For reading and scoring. An admin key works, too.", "")) changed();
  });
}
