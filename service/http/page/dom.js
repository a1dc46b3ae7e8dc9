/** Elements by id, and elements made: text is always set as text. */

/** @returns {any} */
export const byId = (id) => document.getElementById(id);

/** An element with properties (`class`, `text`, `data-…`, `aria-…`, events as `onclick`) and children. */
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

/** Set text only where it differs, so that readers of live regions are told of changes alone. */
export function say(id, text) {
  const target = byId(id);
  if (target.textContent !== text) target.textContent = text;
}

/** Show a notice with its text, or hide it where there is none. */
export function notice(id, text) {
  const target = byId(id);
  target.hidden = !text;
  say(id, text || "");
}

let hiding = 0;

/** Say shortly that something was done. */
export function toast(text) {
  notice("toast", text);
  clearTimeout(hiding);
  hiding = setTimeout(() => notice("toast", ""), 6000);
}
