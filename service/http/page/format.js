/** Figures as text for people; a dash for a missing figure. */

const NONE = "–";
const known = (value) => value !== null && value !== undefined && Number.isFinite(value);

/** Three significant digits, with thousands separators. */
export function figure(value, digits = 3) {
  if (!known(value)) return NONE;
  if (value !== 0 && Math.abs(value) < 10 ** -digits) return value.toExponential(1);
  if (Math.abs(value) >= 10 ** (digits - 1)) return Math.round(value).toLocaleString("en");
  return value.toLocaleString("en", { maximumSignificantDigits: digits });
}

/** A fixed number of decimals, for columns. */
export const fixed = (value, decimals = 2) => (known(value) ? value.toFixed(decimals) : NONE);

export const count = (value) => (known(value) ? Math.round(value).toLocaleString("en") : NONE);

export const percent = (value, decimals = 0) => (known(value) ? `${(100 * value).toFixed(decimals)}%` : NONE);

export function milliseconds(value) {
  if (!known(value)) return NONE;
  return value < 999.5 ? `${figure(value)} ms` : `${figure(value / 1000)} s`;
}

const pad = (number) => String(number).padStart(2, "0");

/** A Unix time in seconds in the date format of plotly.js, in the local time zone. */
export function chartTime(seconds) {
  const date = new Date(seconds * 1000);
  const day = `${date.getFullYear()}-${pad(date.getMonth() + 1)}-${pad(date.getDate())}`;
  return `${day} ${pad(date.getHours())}:${pad(date.getMinutes())}:${pad(date.getSeconds())}`;
}

/** A Date, an ISO text or Unix seconds as text: only the time if the day is today. */
export function when(moment) {
  const date = typeof moment === "number" ? new Date(moment * 1000) : new Date(moment);
  if (Number.isNaN(date.getTime())) return NONE;
  const time = `${pad(date.getHours())}:${pad(date.getMinutes())}`;
  const today = date.toDateString() === new Date().toDateString();
  return today ? time : `${date.getFullYear()}-${pad(date.getMonth() + 1)}-${pad(date.getDate())} ${time}`;
}
