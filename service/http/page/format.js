/** Figures as text for people; a dash for a missing figure. */

const NONE = "–";
const known = (value) => value !== null && value !== undefined && Number.isFinite(value);
const magnitude = (value) => Math.floor(Math.log10(Math.abs(value))); // the power of ten of the first digit

/** Three significant digits, with thousands separators. */
export function figure(value, digits = 3) {
  if (!known(value)) return NONE;
  if (value !== 0 && Math.abs(value) < 10 ** -digits) return value.toExponential(1);
  if (Math.abs(value) >= 10 ** (digits - 1)) return Math.round(value).toLocaleString("en");
  return value.toLocaleString("en", { maximumSignificantDigits: digits });
}

/** A fixed number of decimals, for figures of a known scale. */
export const fixed = (value, decimals = 2) => (known(value) ? value.toFixed(decimals).replace(/^-(?=[0.]+$)/, "") : NONE);

/** The decimals that show three significant digits of a size; two at least. */
export const decimals = (size) => (known(size) && size !== 0 ? Math.min(12, Math.max(2, 2 - magnitude(size))) : 2);

/** Three significant digits at least, and two decimals, for figures of any scale: 12.50, 0.0512, 3.10e-6. */
export function significant(value) {
  if (known(value) && value !== 0 && Math.abs(value) < 1e-4) return value.toExponential(2);
  return fixed(value, decimals(value));
}

export const count = (value) => (known(value) ? Math.round(value).toLocaleString("en") : NONE);

/** A share in percent, with these decimals; with more where it would read as zero. */
export function percent(value, least = 0) {
  if (!known(value)) return NONE;
  const part = 100 * value;
  return `${part.toFixed(part ? Math.min(12, Math.max(least, -magnitude(part))) : least)}%`;
}

export function milliseconds(value) {
  if (!known(value)) return NONE;
  return value < 999.5 ? `${figure(value)} ms` : `${figure(value / 1000)} s`;
}

/** An estimated duration, as roughly as it is known. */
export function about(seconds) {
  if (seconds < 7.5) return "a few seconds";
  if (seconds < 57.5) return `about ${5 * Math.round(seconds / 5)} s`;
  if (seconds < 3570) return `about ${Math.round(seconds / 60)} min`;
  return `about ${figure(seconds / 3600, 2)} h`;
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
