// A run's DNA as a drawing: its three parts of eight hex digits (data, recipe, weights), a bar for each digit.

import { svg } from "./ui.js";

/** The three parts of a DNA, eight hex digits each; none where it is not written like one. */
export function parts(dna) {
  const found = (dna ?? "").split(".").slice(-3);
  return found.length === 3 && found.every((part) => /^[0-9a-f]{8}$/.test(part)) ? found : [];
}

/** The bars of a DNA, which the drawing is called by. `small` fits into a line of a table. */
export function bars(dna, small = false) {
  const digits = [...parts(dna).join("")];
  return svg(
    "svg",
    { class: small ? "dna mini" : "dna", role: "img", "aria-label": dna },
    svg("title", {}, dna),
    digits.map((digit, at) => bar(parseInt(digit, 16), at)),
  );
}

function bar(value, at) {
  const group = Math.floor(at / 8);
  const high = (100 * (value + 2)) / 17; // a zero is a low bar, not none
  return svg("rect", {
    class: `g${group + 1}`,
    x: `${(3.98 * at + 2.3 * group).toFixed(2)}%`,
    y: `${(100 - high).toFixed(1)}%`,
    width: "2.6%",
    height: `${high.toFixed(1)}%`,
    rx: 1,
  });
}
