/** The lineage of the versions: a line from each one down to its parent, as far as the list goes. */

const SVG = "http://www.w3.org/2000/svg";
const LANE = 14; // pixels from one line to the next
const NODE = 24; // from the top of a row to its node
const BEND = 24; // from a node down to where it joins another line
const RADIUS = 5;

/**
 * For entries {name, parent}, newest first, one row each: the `lane` of its node; whether a line comes from a
 * `child` above; the other lanes that `pass` by; and the lane that leads `down` to its parent, or null.
 * The versions of one parent share a line.
 */
export function rows(entries) {
  const awaited = []; // by lane: the version that its line leads to
  return entries.map(({ name, parent }) => {
    const own = awaited.indexOf(name);
    if (own >= 0) awaited[own] = null;
    const pass = [...awaited.keys()].filter((lane) => awaited[lane]);
    const lane = own >= 0 ? own : free(awaited);
    let down = parent ? awaited.indexOf(parent) : -1;
    if (parent && down < 0) {
      down = lane;
      awaited[lane] = parent;
    }
    return { lane, child: own >= 0, pass, down: down < 0 ? null : down };
  });
}

/** The number of lanes of such rows. */
export const width = (drawn) => Math.max(0, ...drawn.map(({ lane, pass }) => Math.max(lane, ...pass) + 1));

/** The drawing of a row, as high as the row. */
export function drawn({ lane, child, pass, down }) {
  const at = (number) => RADIUS + 2 + number * LANE;
  const x = at(lane);
  const parts = pass.map((number) => line(at(number), 0, "100%"));
  if (child) parts.push(line(x, 0, NODE));
  if (down === lane) parts.push(line(x, NODE, "100%"));
  else if (down !== null) {
    const [to, bend] = [at(down), NODE + BEND];
    parts.push(made("path", { d: `M ${x} ${NODE} C ${x} ${bend} ${to} ${NODE} ${to} ${bend}` }));
  }
  parts.push(made("circle", { cx: x, cy: NODE, r: RADIUS }));
  const drawing = made("svg", { class: "lineage", "aria-hidden": "true" });
  drawing.append(...parts);
  return drawing;
}

function free(awaited) {
  const lane = awaited.findIndex((name) => !name);
  return lane < 0 ? awaited.length : lane;
}

const line = (x, from, to) => made("line", { x1: x, x2: x, y1: from, y2: to });

function made(tag, attributes) {
  const part = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) part.setAttribute(name, value);
  return part;
}
