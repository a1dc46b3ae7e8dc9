/** Finding and creating elements. Text is always set as text, never as HTML. */

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

/** Show a notice with this text, or hide it if the text is empty. */
export function notice(id, text) {
  const target = byId(id);
  target.hidden = !text;
  say(id, text || "");
}

let hiding = 0;

/** Show a message for six seconds. */
export function toast(text) {
  notice("toast", text);
  clearTimeout(hiding);
  hiding = setTimeout(() => notice("toast", ""), 6000);
}
