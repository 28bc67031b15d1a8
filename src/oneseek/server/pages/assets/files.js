// The files of a run: each adapter as one line that opens, then the documents, with what each is.
import { $, _, bytes, encoded, h, icon, mark, put } from "./ui.js";
import { called, place } from "./standing.js";

/** List a run's files. kept: of GET /api/runs/{id}/artefacts. */
export function files(run, kept) {
  const adapters = new Map();
  const documents = [];
  for (const file of kept) {
    const [, key] = /^adapters\/([^/]+)\//.exec(file.path) ?? [];
    if (!key) documents.push(file);
    else adapters.set(key, [...(adapters.get(key) ?? []), file]);
  }
  const keys = [...adapters.keys()].sort((one, other) => place(run, one) - place(run, other));
  put($("#files-said"), adapters.size > 0 && _("PEFT, vLLM and llama.cpp load the adapters"));
  put(
    $("#files"),
    keys.map((key) => adapterLine(run, key, adapters.get(key))),
    documents.map((file) => documentLine(run, file)),
    kept.length === 0 && h("li", { class: "muted" }, _("No file is left.")),
  );
}

function adapterLine(run, key, held) {
  const size = held.reduce((sum, file) => sum + file.size, 0);
  return h(
    "li",
    {},
    h(
      "details",
      {},
      h(
        "summary",
        {},
        h("span", { class: "fname" }, mark(place(run, key)), `adapters/${key}`),
        h("span", { class: "muted what" }, key === run.champion ? _("Adapter, champion") : _("Adapter")),
        h("span", { class: "num nowrap" }, bytes(size)),
        icon("chev"),
      ),
      h(
        "ul",
        { "aria-label": _("Files of {name}", { name: called(run, key) }) },
        held.map((file) => line(run, file, null, file.path.slice(`adapters/${key}/`.length))),
      ),
    ),
  );
}

const documentLine = (run, file) => line(run, file, icon(DRAWN[file.path] ?? "file"), file.path);

function line(run, file, drawing, name) {
  return h(
    "li",
    { class: "file" },
    h("span", { class: "fname" }, drawing, name),
    h("span", { class: "muted what" }, what()[name] ?? ""),
    h("span", { class: "num nowrap" }, bytes(file.size)),
    h(
      "a",
      {
        class: "btn quiet icon small",
        href: `/api/runs/${encodeURIComponent(run.run_id)}/artefacts/${encoded(file.path)}`,
        download: name.split("/").at(-1),
        "aria-label": _("Download {name}", { name: file.path }),
      },
      icon("down"),
    ),
  );
}

const DRAWN = {
  "oneseek_dna.json": "seal",
  "ledger_proof.json": "tree",
  "manifest.json": "lock",
  "model.sig": "key",
};

const what = () => ({
  "training_results.json": _("Ranking, figures, weights"),
  "live_metrics.json": _("The last epoch, for listeners"),
  "oneseek_dna.json": _("DNA and its parts"),
  "ledger_proof.json": _("Entry, proof, checkpoint"),
  "journal.jsonl": _("Everything that happened"),
  "manifest.json": _("Each file with its digest"),
  "model.sig": _("Signature of the manifest"),
  "provenance.json": _("What it was made from, and how"),
  "recipe.json": _("What the weights follow from"),
  "quarantine.jsonl": _("Rows that were set aside"),
  "README.md": _("Model card"),
  "adapter_config.json": _("Settings of the adapter"),
  "adapter_model.safetensors": _("Weights of the adapter"),
  "chat_template.jinja": _("Chat template"),
  "tokenizer.json": _("Tokenizer"),
  "tokenizer_config.json": _("Settings of the tokenizer"),
});
