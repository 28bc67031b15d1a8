// Values beside each other, of which those are marked that are unlike most of them.
import { NONE, _, h } from "./ui.js";

/** How values are written beside each other: what is unlike most of them is marked, word by word. Answers what draws the
 * value of a run by its place. */
export function differing(values) {
  const odd = unlike(values.map((value) => JSON.stringify(value)));
  const lists = values.every(Array.isArray);
  const texts = values.every((value) => typeof value === "string" && !/^[\d.,\s]+$/.test(value));
  const [before, behind] = texts && odd.length ? shared(values.map(words)) : [0, 0];
  return (_run, place) => {
    const value = values[place];
    if (value === undefined || !odd.includes(place)) return written(value);
    if (lists && value.length) return value.map((item, at) => [at ? ", " : "", rare(values, item)]);
    if (!texts) return h("mark", {}, written(value));
    const own = words(value);
    const middle = own.slice(before, own.length - behind).join("");
    return [own.slice(0, before).join(""), h("mark", {}, middle || NONE), own.slice(own.length - behind).join("")];
  };
}

/** The places whose value is not the one that more than half have; none where all are the same. */
function unlike(values) {
  const usual = values.find((value) => values.filter((other) => other === value).length > values.length / 2);
  return [...values.keys()].filter((place) => usual === undefined || values[place] !== usual);
}

/** An item of a list, marked where not more than half of the lists have it. */
export function rare(lists, item, text = `${item}`) {
  const common = lists.filter((list) => list.includes(item)).length > lists.length / 2;
  return common ? text : h("mark", {}, text);
}

/** Words and what is between them. */
const words = (text) => text.match(/[\p{L}\p{N}]+|[^\p{L}\p{N}]+/gu) ?? [];

/** How many words all lists begin with, and how many they end with behind those. */
function shared(lists) {
  const short = Math.min(...lists.map((list) => list.length));
  const [first] = lists;
  let before = 0;
  while (before < short && lists.every((list) => list[before] === first[before])) before += 1;
  let behind = 0;
  while (behind < short - before && lists.every((list) => list.at(-1 - behind) === first.at(-1 - behind))) behind += 1;
  return [before, behind];
}

/** A value as it stands in a configuration file. */
export function written(value) {
  if (value === undefined) return NONE;
  if (value === null) return _("not set");
  if (typeof value === "boolean") return value ? _("on") : _("off");
  if (Array.isArray(value)) return value.length ? value.join(", ") : _("none");
  if (typeof value === "number" && value !== 0 && Math.abs(value) < 0.001) return value.toExponential();
  return String(value);
}
