/** The held-out pairs that accuracies were measured on: those on different pairs cannot be compared. */

import { count, percent } from "./format.js";

const keyOf = ({ sha256, pairs, share }) => JSON.stringify([sha256, pairs, share]);

/**
 * For entries with an accuracy, oldest first: `letter(entry)`, which says on which pairs it was measured ("" where
 * all are the same, or where they are unknown), and `legend`.
 */
export function heldOutSets(entries) {
  const sets = new Map();
  for (const { held_out: set } of entries) if (set && !sets.has(keyOf(set))) sets.set(keyOf(set), set);
  const unknown = entries.some(({ held_out: set }) => !set);
  const lettered = sets.size > 1 || (sets.size === 1 && unknown);
  const letters = new Map([...sets.keys()].map((key, place) => [key, letter(place)]));
  const described = [...sets].map(([key, set]) => (lettered ? `${letters.get(key)}: ` : "") + description(set, [...sets.values()]));
  if (lettered && unknown) described.push("without a letter: unknown pairs");
  return {
    letter: ({ held_out: set }) => (lettered && set ? letters.get(keyOf(set)) : ""),
    legend: described.length ? `Held-out accuracy measured on ${described.join("; ")}${lettered ? ". Compare only those of one letter." : ""}` : "",
  };
}

/** a, b, …, z, aa, ab, … */
function letter(place) {
  const last = String.fromCharCode(97 + (place % 26));
  return place < 26 ? last : letter(Math.floor(place / 26) - 1) + last;
}

/** Its file and number of pairs; what else differs from others that read the same. */
function description(set, all) {
  const plain = ({ source, pairs }) => `${source.split("/").at(-1)}, ${count(pairs)} pairs`;
  const alike = all.filter((other) => other !== set && plain(other) === plain(set));
  const file = alike.some(({ sha256 }) => sha256 !== set.sha256) ? `, SHA-256 ${String(set.sha256).slice(0, 8)}…` : "";
  const share = alike.some((other) => other.share !== set.share) ? `, ${percent(set.share)} of the file` : "";
  return plain(set) + file + share;
}
