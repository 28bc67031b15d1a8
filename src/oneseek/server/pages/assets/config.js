// The form's settings as a file, as `oneseek train --config` takes it, and back.
import { _, confirmed, h, toast } from "./ui.js";
import * as form from "./form.js";

const LARGEST = 1 << 20; // bytes; as the command line has it
const MOST = 1000; // values; no run has so many settings, and each may become something to look at
const DEEPEST = 10; // values within values
const FLAT = {
  // the names of the older interface, which the server takes too
  datasetId: "data.dataset",
  baseModels: "model.base_models",
  epochs: "training.num_epochs",
  learningRate: "training.learning_rate",
  autoStopThreshold: "confidence_auto_stop.threshold",
  autoStopPatience: "confidence_auto_stop.patience",
};

/** Let the browser keep the settings as a file. Where a run is computed is said when it starts, not in the file. */
export function save() {
  const { device, ...settings } = form.settings();
  const text = `${JSON.stringify(form.body(settings), null, 2)}\n`;
  const address = URL.createObjectURL(new Blob([text], { type: "application/json" }));
  const name = String(settings["data.dataset"] ?? "oneseek").replace(/\.\w+$/, "");
  h("a", { href: address, download: `${name}.config.json` }).click();
  setTimeout(() => URL.revokeObjectURL(address), 1000);
  toast(device ? _("Saved, without the device") : _("Saved"));
}

/** Fill the form with the settings of a chosen file. What is unknown or wrong in it the server says. */
export async function load(input) {
  const [file] = input.files;
  input.value = ""; // so that the same file can be chosen again
  if (!file) return;
  const settings = await settingsIn(file);
  if (typeof settings === "string") {
    await confirmed({
      title: _("{name} was not loaded", { name: file.name }),
      text: settings,
      no: _("Close"),
      choices: [],
    });
    return;
  }
  if (!(await mayReplace(file.name))) return;
  form.replace(settings);
  toast(_("{name} is loaded", { name: file.name }));
}

/** Forget all that was set. */
export async function startOver() {
  if (!Object.keys(form.settings()).length) {
    toast(_("Nothing is set yet"));
    return;
  }
  const sure = await confirmed({
    title: _("Start over?"),
    text: _("All that was chosen and set here goes back to its default. Save the config first to keep it."),
    choices: [{ value: "yes", label: _("Start over") }],
  });
  if (sure) form.replace({});
}

async function mayReplace(name) {
  if (!Object.keys(form.settings()).length) return true;
  return confirmed({
    title: _("Load {name}?", { name }),
    text: _("What is chosen and set here gives way to what the file says."),
    choices: [{ value: "yes", label: _("Load it"), tone: "primary" }],
  });
}

/** The settings in a file by dotted field, or what is wrong with it as a text. */
async function settingsIn(file) {
  if (file.size > LARGEST) return _("It is too large to hold settings.");
  let held;
  try {
    held = JSON.parse((await file.text()).replace(/^\ufeff/, ""));
  } catch (error) {
    return `${_("It is not JSON:")} ${error.message}`;
  }
  if (!isSection(held)) return _("It holds no settings: sections are expected, with settings in them.");
  if (tooMuch(held)) return _("It is too large to hold settings.");
  return Object.fromEntries(fields(held));
}

/** Whether there are more values in what a file holds, or deeper ones, than settings ever have. */
function tooMuch(held) {
  let values = [held];
  let counted = 0;
  for (let depth = 0; values.length; depth += 1) {
    counted += values.length;
    if (counted > MOST || depth > DEEPEST) return true;
    values = values.flatMap((each) => (each !== null && typeof each === "object" ? Object.values(each) : []));
  }
  return false;
}

/** Every setting by its dotted field, in our own spelling. Lists are values; null is none. */
function fields(section, path = []) {
  return Object.entries(section).flatMap(([name, held]) => {
    const here = [...path, path.length === 1 && path[0] === "per_model" ? name : own(name)];
    if (isSection(held)) return fields(held, here);
    const field = path.length ? undefined : FLAT[name];
    return held === null ? [] : [[field ?? here.join("."), held]];
  });
}

const own = (name) => name.replace(/(?<=[a-z0-9])([A-Z])/g, "_$1").toLowerCase();
const isSection = (held) => held !== null && typeof held === "object" && !Array.isArray(held);
