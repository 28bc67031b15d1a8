// Running a run again: its settings become the draft of the Train page, where they are checked and can be changed.
import { _, confirmed, get } from "./ui.js";
import { replace, settings } from "./form.js";
import { flat } from "./standing.js";

const NOT_ASKED_AGAIN = [
  "data.dataset", // its name may be another one now: it is found by its content
  "data.validation_dataset",
  "model.base_models",
  "output.directory",
  "output.version",
];

/** Fill the Train form with a run's settings, as far as they are no defaults, and go there. A draft that somebody wrote
 * is replaced only when that is confirmed. */
export async function again(run) {
  const [{ settings: known }, { datasets }] = await Promise.all([get("/api/config"), get("/api/datasets")]);
  const defaults = new Map(known.map((each) => [each.field, each.default]));
  const asked = Object.fromEntries(
    flat(run.config).filter(([field, held]) => !NOT_ASKED_AGAIN.includes(field) && !same(held, defaults.get(field))),
  );
  asked["model.base_models"] = run.base_models;
  const dataset = datasets.find((each) => each.sha256 && each.sha256 === run.dataset?.sha256);
  const validation = datasets.find((each) => each.name === run.dataset?.validation_name);
  if (dataset) asked["data.dataset"] = dataset.name;
  if (validation) asked["data.validation_dataset"] = validation.name;
  const draft = settings();
  if (Object.keys(draft).length && !same(sorted(draft), sorted(asked)) && !(await confirmedReplacing())) return;
  replace(asked);
  location.assign("/train");
}

const confirmedReplacing = () =>
  confirmed({
    title: _("Replace your draft?"),
    text: _("The Train page holds settings that were not started yet. They are replaced by those of this run."),
    no: _("Keep the draft"),
    choices: [{ value: "yes", label: _("Replace it"), tone: "primary" }],
  });

const same = (one, other) => JSON.stringify(one ?? null) === JSON.stringify(other ?? null);
const sorted = (held) => Object.entries(held).sort(([one], [other]) => (one < other ? -1 : 1));
