/** The API key: requested when the server refuses a call, tried at once, kept in memory only, shown and forgotten. */

import { ApiError, hasKey, rightsOf, useKey } from "./api.js";
import { answerOf } from "./dialogs.js";
import { byId, notice, say } from "./dom.js";

const RIGHTS = { score: "it may read and score", admin: "it may read, score and change what is served" };
let asking = null;
let rights = ""; // of the key in use, or of everyone; "" while unknown

/**
 * Ask for a key with these rights (score or admin). Resolves to true once a key is in use, or to false if the
 * user cancels. `refusal` says what is wrong with the previous key.
 */
export function askForKey(needed, why, refusal) {
  asking ||= ask(needed, why, refusal).finally(() => {
    asking = null;
  });
  return asking;
}

async function ask(needed, why, refusal) {
  const input = byId("key-input");
  say("key-title", needed === "admin" ? "Admin key" : "API key");
  say("key-why", why);
  notice("key-refused", refusal);
  showRights(rights);
  for (;;) {
    input.value = "";
    const answer = await answerOf(byId("key-dialog"), input);
    const key = input.value.trim();
    input.value = "";
    if (answer !== "use" || !key) return false;
    const problem = await refusalOf(needed, key);
    if (!problem) return true;
    notice("key-refused", problem);
  }
}

/** Why a key does not do; "" if it does, and is then in use. */
async function refusalOf(needed, key) {
  let found = "";
  try {
    found = await rightsOf(key);
  } catch (error) {
    if (error instanceof ApiError && error.isAboutKeys) return refused(error);
  }
  if (needed === "admin" && found === "score") return "This key may only read and score: an admin key is needed.";
  useKey(key);
  showRights(found);
  return "";
}

/** What is wrong with the key that was sent, as a sentence. */
export const refused = ({ message }) => `The server refuses this key: ${message}.`;

/** Run a call that needs an admin key. If the server refuses it for want of a key, ask for one and retry. */
export async function withAdmin(what, work) {
  for (;;) {
    try {
      return await work();
    } catch (error) {
      if (!(error instanceof ApiError) || !error.isAboutKeys) throw error;
      const refusal = hasKey() && rights !== "score" ? refused(error) : "";
      if (!(await askForKey("admin", `${what} needs an admin key.`, refusal))) return null;
    }
  }
}

/** Show what the key in use may do, or everyone if there is none. */
export function showRights(found) {
  rights = found;
  const known = RIGHTS[rights] ? `: ${RIGHTS[rights]}` : "";
  const without = rights ? "No key is in use, and this server asks for none." : "";
  say("keys", hasKey() ? (rights ? `Key: ${rights}` : "Key in use") : "API key");
  say("key-rights", hasKey() ? `A key is in use${known}.` : without);
  byId("key-forget").hidden = !hasKey();
}

/** `changed` is called with whether a key was accepted, when the dialog that the user opened has closed. */
export function startAccess(changed) {
  byId("keys").addEventListener("click", async () => {
    changed(await askForKey("score", "For reading and scoring. An admin key works, too.", ""));
  });
  byId("key-forget").addEventListener("click", () => {
    useKey("");
    showRights("");
    notice("key-refused", "");
    say("key-rights", "The key is forgotten.");
    byId("key-input").focus();
  });
}
