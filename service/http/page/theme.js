/** Light or dark: as the system has it, until the reader chooses. */

import { byId } from "./dom.js";

const dark = window.matchMedia("(prefers-color-scheme: dark)");
const listeners = [];

export const onTheme = (listener) => listeners.push(listener);

/** A colour of the stylesheet by its name, as it is now. */
export const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

export function startTheme() {
  const button = byId("theme");
  const isDark = () => (document.documentElement.dataset.theme || (dark.matches ? "dark" : "light")) === "dark";

  function show() {
    button.textContent = isDark() ? "Light" : "Dark";
    for (const listener of listeners) listener();
  }

  button.addEventListener("click", () => {
    document.documentElement.dataset.theme = isDark() ? "light" : "dark";
    show();
  });
  dark.addEventListener("change", show);
  show();
}
