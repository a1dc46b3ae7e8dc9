/** Light or dark: the system's preference until the user chooses. */

import { byId } from "./dom.js";

const dark = window.matchMedia("(prefers-color-scheme: dark)");
const listeners = [];

export const onTheme = (listener) => listeners.push(listener);

/** The current value of a colour of the stylesheet. */
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
