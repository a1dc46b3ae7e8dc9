/** Finding and creating elements, and keeping the focus. Text is always set as text, never as HTML. */

/** @returns {any} */
export const byId = (id) => document.getElementById(id);

/** A new element with properties (`class`, `text`, `data-…`, `aria-…`, handlers such as `onclick`) and children. */
export function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (name === "text") made.textContent = value;
    else if (name === "class") made.className = value;
    else if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (name.includes("-") || name === "for" || name === "scope") made.setAttribute(name, value);
    else made[name] = value;
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

/** Set the text of an element only if it differs, so that screen readers announce changes only. */
export function say(id, text) {
  const target = byId(id);
  if (target.textContent !== text) target.textContent = text;
}

/** Replace the children of an element only if their text differs, for the same reason. */
export function list(id, children) {
  const text = children.map((child) => child.textContent).join("\n");
  const target = byId(id);
  if ([...target.children].map((child) => child.textContent).join("\n") !== text) target.replaceChildren(...children);
}

/** Show a notice with this text, or hide it if the text is empty. */
export function notice(id, text) {
  const target = byId(id);
  target.hidden = !text;
  say(id, text || "");
}

/**
 * Remember where the focus is. The result, called after a redraw, puts it back if it was lost: on the element of
 * the same id, or on the nearest element around it that has an id, is still there and takes the focus.
 */
export function focusKept() {
  const ids = [];
  for (let at = document.activeElement; at; at = at.parentElement) if (at.id) ids.push(at.id);
  return () => {
    for (const id of ids) {
      const now = document.activeElement;
      if (now !== document.body && now.isConnected && now.getClientRects().length) return;
      byId(id)?.focus({ preventScroll: true });
    }
  };
}

let hiding = 0;

/** Say a message for six seconds; "" ends it. */
export function toast(text) {
  say("toast", text);
  clearTimeout(hiding);
  hiding = setTimeout(() => say("toast", ""), 6000);
}
