// Files on their way to the store: where they are dropped or chosen, how far each is, and what the server said of it.
import {
  $,
  $$,
  _,
  bytes,
  duration,
  failure,
  Failure,
  h,
  icon,
  language,
  passing,
  put,
  refusal,
  signIn,
  tell,
} from "./ui.js";

const LONGEST_NAME = 120; // characters, as the store takes
const WINDOW = 3000; // milliseconds over which the rate is measured

/** Take files that are dropped anywhere on the page or chosen in `zone` (a `.drop` with its file input), one after the
 * other, and show each in `list`. `names()` are those that the store has; `done(added, {isNew, name})` is called with
 * what the server says of a file that it keeps. */
export function uploads({ zone, list, names, done }) {
  const input = $("input", zone);
  const waiting = [];
  let busy = false;

  const take = (files) => {
    if (!busy && files.length) for (const item of $$(".refused", list)) item.remove(); // they were read
    waiting.push(...files);
    if (!busy) next();
  };

  const next = async () => {
    const file = waiting.shift();
    busy = file !== undefined;
    zone.classList.toggle("busy", busy);
    if (!busy) return;
    await sentWith(file, { list, names, done }).finally(next);
  };

  input.addEventListener("change", (event) => {
    event.stopPropagation(); // it is no setting of the form around it
    take([...input.files]);
    input.value = ""; // the same file can be chosen again
  });
  dropped(zone, (files) => take(input.multiple ? files : files.slice(0, 1)));
  addEventListener("beforeunload", (event) => busy && event.preventDefault());
}

/** Dropped files, wherever on the page: next to the zone the browser would leave the page to show them. */
function dropped(zone, take) {
  let inside = 0;
  const over = (event, change) => {
    if (!event.dataTransfer?.types.includes("Files")) return;
    event.preventDefault();
    inside = Math.max(0, inside + change);
    zone.classList.toggle("over", inside > 0);
  };
  addEventListener("dragenter", (event) => over(event, 1));
  addEventListener("dragover", (event) => over(event, 0));
  addEventListener("dragleave", (event) => over(event, -1));
  addEventListener("drop", (event) => {
    over(event, -inside);
    if (event.defaultPrevented) take([...event.dataTransfer.files]);
  });
}

/** Send one file and stay until it is kept, taken back, or refused: a refusal stays on the page until it is closed. */
async function sentWith(file, { list, names, done }) {
  const item = h("li", { class: "upload" });
  const controller = new AbortController();
  const name = storable(file.name);
  list.append(item);
  try {
    const { added, isNew } = await sent(file, name, controller, item);
    item.remove();
    tell(isNew ? _("{name} is stored.", { name: added.name }) : _("The content was there: {name}.", added));
    await done(added, { isNew, name });
  } catch (error) {
    if (error.name === "AbortError") return item.remove();
    if (!(error instanceof Failure)) throw error;
    refused(error, { item, file, name, list, names, done });
  }
}

/** What the store takes as a name: no way into directories, and not too long. */
function storable(name) {
  const plain = name.replace(/[/\\\p{C}]/gu, "_").replace(/^[-\s]+|\s+$/gu, "");
  if (plain.length <= LONGEST_NAME) return plain || "dataset.jsonl";
  const [ending] = plain.match(/\.\w{1,8}$/) ?? [""];
  return plain.slice(0, LONGEST_NAME - ending.length) + ending;
}

/** Another name that is not taken: chats-2.jsonl. */
export function free(name, names) {
  const [, stem, ending] = name.match(/^(.*?)(\.\w{1,8})?$/s);
  for (let number = 2, wanted = name; ; number += 1) {
    if (!names.has(wanted)) return wanted;
    wanted = `${stem}-${number}${ending ?? ""}`;
  }
}

// -- on its way ------------------------------------------------------------------------------------------------------

function sent(file, name, controller, item) {
  const bar = h("progress", { max: file.size || 1, value: 0, "aria-label": _("Sending {name}", { name }) });
  const far = h("span", { class: "muted" }, `${bytes(0)} / ${bytes(file.size)}`);
  const cancel = h(
    "button",
    { class: "btn small", type: "button", onclick: () => controller.abort() },
    icon("x"),
    _("Cancel"),
  );
  put(item, icon("file"), h("b", {}, name), far, cancel, bar);
  tell(_("Sending {name}", { name }));

  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest(); // fetch() tells nothing of what is sent
    const rate = measured();
    request.open("POST", `/api/datasets?name=${encodeURIComponent(name)}`);
    request.responseType = "json";
    request.setRequestHeader("Accept-Language", language);
    request.setRequestHeader("Content-Type", "application/octet-stream");
    request.upload.addEventListener("progress", (event) => {
      const speed = rate(event.loaded);
      bar.value = event.loaded;
      put(far, [
        `${bytes(event.loaded)} / ${bytes(file.size)}`,
        speed
          ? ` · ${bytes(speed)}/s · ${_("{time} left", { time: duration((file.size - event.loaded) / speed) })}`
          : "",
      ]);
    });
    request.upload.addEventListener("load", () => {
      bar.removeAttribute("value");
      put(far, _("Checking {size}…", { size: bytes(file.size) }));
      tell(_("Checking {name}", { name }));
    });
    request.addEventListener("load", () => {
      if ([200, 201].includes(request.status) && request.response) {
        return resolve({ added: request.response, isNew: request.status === 201 });
      }
      if (request.status === 401) signIn();
      if (request.status === 413 && !request.response) reject(tooLarge(file));
      else reject(refusal(request.status, request.response));
    });
    request.addEventListener("error", () => reject(brokenOff(bar, file)));
    request.addEventListener("abort", () => reject(new DOMException("", "AbortError")));
    controller.signal.addEventListener("abort", () => request.abort());
    request.send(file);
  });
}

/** Bytes a second over the last moments; null before anything can be said. */
function measured() {
  const seen = [];
  return (loaded) => {
    const now = performance.now();
    seen.push([now, loaded]);
    while (seen.length > 2 && now - seen[0][0] > WINDOW) seen.shift();
    const [[since, before]] = seen;
    return now - since > 250 ? ((loaded - before) / (now - since)) * 1000 : null;
  };
}

/** What stands before the server takes less than the server. */
const tooLarge = ({ name, size }) =>
  new Failure(413, {
    message: _("{name} is larger than is let through: {size}.", { name, size: bytes(size) }),
    fix: _("Split it, or let whoever runs the server allow more."),
  });

function brokenOff(bar, file) {
  const message = _("{name} broke off after {sent} of {size}.", {
    name: file.name,
    sent: bytes(bar.value),
    size: bytes(file.size),
  });
  const fix = _("Send it again. If it breaks off again, it may be larger than the server takes: split it.");
  return new Failure(0, { message, fix });
}

// -- refused ---------------------------------------------------------------------------------------------------------

function refused(error, { item, file, name, list, names, done }) {
  const taken = error.status === 400 && names().has(name);
  const again = (wanted) => {
    item.remove();
    sentWith(new File([file], wanted, { type: file.type }), { list, names, done });
  };
  const close = h(
    "button",
    { class: "btn quiet small", type: "button", onclick: () => (item.remove(), $(".drop input")?.focus()) },
    _("Close"),
  );
  const box = failure(taken ? nameTaken(name) : error);
  if (taken) box.append(renamed(free(name, names()), again, close));
  else {
    const send = h("button", { class: "btn small", type: "button", onclick: () => again(name) }, _("Send again"));
    box.append(h("span", { class: "row" }, passing(error) && send, close));
  }
  item.classList.add("refused");
  put(item, box);
}

/** What is said of a file whose content was there, under whatever name. */
export const wasStored = (added, name) =>
  _("This content was stored already, as {stored}; {name} is not kept a second time.", { stored: added.name, name });

/** The server says it with words for its command line. */
export const nameTaken = (name) => ({
  message: _("Another dataset has the name {name}.", { name }),
  fix: _("Give this one another."),
});

/** A field for another name, and the button that sends the file under it. */
function renamed(suggested, again, close) {
  const id = `name-${suggested.length}-${Math.round(performance.now())}`;
  const field = h("input", { class: "input", id, value: suggested, maxlength: LONGEST_NAME, spellcheck: "false" });
  const go = () => field.value.trim() && again(storable(field.value));
  field.addEventListener("keydown", (event) => {
    if (event.key !== "Enter") return;
    event.preventDefault(); // it may stand in the form of a page
    go();
  });
  const send = h("button", { class: "btn small", type: "button", onclick: go }, _("Send under this name"));
  return h("div", { class: "rename" }, h("label", { class: "vh", for: id }, _("Name")), field, send, close);
}
