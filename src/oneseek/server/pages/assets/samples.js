// What the models answered to the run's sample prompts, epoch by epoch.
import { $, _, by, h, mark, number, put } from "./ui.js";
import { called, place } from "./standing.js";

/** Show the sample answers of a run, the last epoch first; nothing where it had no sample prompts. */
export function samples(run) {
  const told = run.samples ?? [];
  $("#answers-part").hidden = told.length === 0;
  if (!told.length) return;
  let at = told.length - 1;
  const shown = h("output", { for: "answers-at" });
  const slider = h("input", {
    type: "range",
    id: "answers-at",
    min: 0,
    max: told.length - 1,
    step: 1,
    value: at,
    oninput: () => draw(Number(slider.value)),
  });
  put(
    $("#answers-epoch"),
    h("label", { for: "answers-at", class: "muted" }, _("After epoch")),
    told.length > 1 && h("div", { class: "slider" }, slider),
    shown,
  );
  const cells = new Map();
  put(
    $("#answers"),
    run.sample_prompts.map((prompt, which) => question(run, told, prompt, which, cells)),
  );
  draw(at);

  function draw(now) {
    at = now;
    const { epoch, samples: answers } = told[at];
    const words = _("{n} of {all}", { n: number(epoch), all: number(run.current_epoch) });
    shown.value = words;
    slider.setAttribute("aria-valuetext", words);
    for (const [[key, prompt], cell] of cells) answer(cell, by(answers, key)?.[prompt]);
  }
}

function question(run, told, prompt, which, cells) {
  const keys = run.base_models.filter((key) => told.some((each) => by(each.samples, key)?.[which] != null));
  return h(
    "div",
    { class: "asked" },
    h("h3", { class: "question" }, prompt),
    h(
      "div",
      { class: "answers" },
      keys.map((key) => {
        const cell = h("blockquote");
        cells.set([key, which], cell);
        return h("div", {}, h("h4", {}, mark(place(run, key)), called(run, key)), cell);
      }),
    ),
  );
}

function answer(cell, text) {
  if (text == null) put(cell, h("p", { class: "muted" }, _("It gave no answer after this epoch.")));
  else put(cell, text.trim() || h("p", { class: "muted" }, _("An empty answer.")));
}
