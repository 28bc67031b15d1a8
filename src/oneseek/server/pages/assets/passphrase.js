// Fields for a passphrase: shown or hidden, how strong a new one is, whether it was written the same twice.
import { $, $$, _, h, icon, number, put } from "./ui.js";

const SHORTEST = 12; // characters, as the server counts them
const FEW = 5; // different characters; fewer are guessed in no time

/** Characters as the server counts them: keyboards write an å as one or as two. */
const characters = (text) => [...text.normalize("NFC")];

/** Say something under a field, with `tone` bad, warn, good or nothing; nothing where there is no text. */
export function say(input, text, tone = "") {
  const said = $(`#${input.id}-said`);
  const drawing = { bad: "err", warn: "warn", good: "check" }[tone] ?? "info";
  put(said, text && [icon(drawing, tone), h("span", {}, text)]);
  if (tone === "bad") input.setAttribute("aria-invalid", "true");
  else input.removeAttribute("aria-invalid");
}

/** Let every button beside a passphrase show and hide it. */
export function showable() {
  for (const button of $$("[data-show]")) {
    const input = $(`#${button.dataset.show}`);
    const name = $(`label[for="${input.id}"]`).textContent;
    button.addEventListener("click", () => {
      const shown = input.type === "password";
      input.type = shown ? "text" : "password";
      button.textContent = shown ? _("Hide") : _("Show");
      button.setAttribute("aria-label", shown ? _("Hide: {name}", { name }) : _("Show: {name}", { name }));
    });
  }
}

/** Hide them all: what is sent as a passphrase should look like one to the browser that keeps it. */
export function hideAll() {
  for (const button of $$("[data-show]")) if ($(`#${button.dataset.show}`).type === "text") button.click();
}

/** Judge a new passphrase while it is typed, and its repetition. Answers a function that says whether both are good,
 * tells what is not, and goes to the first that is not. */
export function judged(input, again) {
  const strength = $(`[data-strength="${input.id}"]`);
  let asked = false; // what is missing is no mistake before somebody was done

  input.addEventListener("input", draw);
  again.addEventListener("input", draw);
  input.form.addEventListener("reset", () => {
    asked = false;
    setTimeout(draw); // the fields are emptied after this
  });
  again.addEventListener("blur", () => again.value && (asked = true) && draw());
  draw();
  return () => {
    asked = true;
    draw();
    const wrong = [input, again].find((each) => each.hasAttribute("aria-invalid"));
    wrong?.focus();
    return !wrong;
  };

  function draw() {
    const [level, text, tone] = verdict(input.value, asked);
    [...strength.children].forEach((bar, place) => bar.classList.toggle("on", place < level));
    strength.classList.toggle("weak", tone === "warn" || tone === "bad");
    say(input, text, tone);
    const soFar = input.value.startsWith(again.value);
    if (again.value && again.value === input.value) say(again, _("Both are the same."), "good");
    else if (asked && (again.value || input.value)) say(again, _("The two passphrases differ."), "bad");
    else if (again.value && !soFar) say(again, _("The two passphrases differ."), "warn");
    else say(again, "");
  }
}

/** How strong a passphrase is: bars of four, what to say, in which tone. Length is what counts, and nothing else is
 * promised. */
function verdict(text, asked) {
  const written = characters(text);
  const n = number(written.length);
  if (!written.length && asked) return [0, _("A passphrase is needed."), "bad"];
  if (!written.length) {
    return [0, _("At least {least} characters. Three or four words are easiest to keep.", { least: SHORTEST }), ""];
  }
  if (written.length < SHORTEST) {
    return [1, _("{n} of at least {least} characters.", { n, least: SHORTEST }), asked ? "bad" : ""];
  }
  if (new Set(written).size < FEW) {
    return [1, _("{n} characters, but nearly all the same: that is easy to guess.", { n }), "warn"];
  }
  if (written.length < 16) return [2, _("Long enough: {n} characters.", { n }), "good"];
  if (written.length < 24) return [3, _("Good: {n} characters, if they can’t be found in a book.", { n }), "good"];
  return [4, _("Strong: {n} characters, if they can’t be found in a book.", { n }), "good"];
}
