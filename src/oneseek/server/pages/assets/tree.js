// A Merkle tree as a drawing: how an entry, and the hashes beside its way up, lead to the signed root.
import { _, _n, number, svg } from "./ui.js";

const ALL = 8; // entries up to which each is drawn; of more, whatever is beside the way up is one node
const WIDE = 360;
const TOP = 18;

/** The tree of a ledger with `size` entries, as entry `index`, from 0, is proven in it (RFC 9162, 2.1.3). */
export function tree(index, size) {
  if (!(index >= 0 && index < size)) return null;
  const nodes = [];
  const root = grown(0, size, true, 0);
  const leaves = nodes.filter((node) => !node.children);
  const depth = Math.max(...nodes.map((node) => node.level));
  const row = Math.min(30, 150 / Math.max(1, depth));
  leaves.forEach((leaf, at) => (leaf.x = (WIDE * (at + 0.5)) / leaves.length));
  for (const node of nodes.toReversed()) {
    if (node.children) node.x = (node.children[0].x + node.children[1].x) / 2;
    node.y = TOP + row * node.level;
  }
  const entry = leaves.find((leaf) => leaf.on);
  const late = root.x > 0.75 * WIDE; // the words go where there is room
  const beside = nodes.filter((node) => node.beside).length;
  return svg(
    "svg",
    {
      class: "tree",
      viewBox: `0 0 ${WIDE} ${TOP + row * depth + 26}`,
      role: "img",
      "aria-label": about(index, beside),
    },
    nodes.flatMap((node) => (node.children ?? []).map((child) => edge(node, child))),
    nodes.map(dot),
    label(late ? "root-left" : "root-right", root.x + (late ? -13 : 13), root.y + 1, _("signed root")),
    depth > 0 &&
      label("", Math.min(WIDE - 24, Math.max(24, entry.x)), entry.y + 21, _("entry {n}", { n: number(index) })),
  );

  /** The part over entries from `low` to before `high`; children come after their parents in `nodes`, left first.
   * on: whether it is on the way from the entry to the root. */
  function grown(low, high, on, level, beside = false) {
    const node = { on, beside, level };
    nodes.push(node);
    if (high - low > 1 && (on || size <= ALL)) {
      const middle = low + 2 ** Math.ceil(Math.log2(high - low) - 1);
      const left = on && index < middle;
      const right = on && !left;
      node.children = [grown(low, middle, left, level + 1, right), grown(middle, high, right, level + 1, left)];
    }
    return node;
  }
}

const about = (index, beside) =>
  _n(
    beside,
    "Merkle tree: entry {index} and {n} hash beside its way lead to the signed root",
    "Merkle tree: entry {index} and {n} hashes beside its way lead to the signed root",
    { index: number(index) },
  );

const edge = (from, to) => svg("line", { class: to.on && "on", x1: from.x, y1: from.y, x2: to.x, y2: to.y });

function dot({ on, beside, children, level, x, y }) {
  const end = on && (!children || level === 0);
  return svg("circle", { class: on ? "on" : beside && "sib", cx: x, cy: y, r: end ? 6 : 4.5 });
}

const label = (name, x, y, text) => svg("text", { class: name || null, x, y }, text);
