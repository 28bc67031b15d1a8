// Access: tokens for programs, sessions of browsers, the passphrase.
import {
  $,
  _,
  _n,
  ask,
  badge,
  confirmed,
  copier,
  failure,
  fully,
  get,
  h,
  icon,
  moment,
  NONE,
  passing,
  post,
  put,
  tell,
  toast,
} from "./ui.js";
import { hideAll, judged, say, showable } from "./passphrase.js";

const SOON = 7 * 86_400_000; // milliseconds before its end in which a token is marked

showable();
listTokens();
listSessions();
makingTokens();
changingPassphrase();

// -- tokens ---------------------------------------------------------------------------------------------------------

const SCOPES = () => ({ read: _("Viewer"), run: _("Operator"), admin: _("Administrator") });

async function listTokens() {
  const place = $("#tokens-list");
  const tokens = (await listed(place, listTokens, "/api/tokens"))?.tokens;
  if (!tokens) return;
  if (!tokens.length)
    return put(place, h("p", { class: "muted" }, _("No tokens. Nothing but a signed-in browser gets in.")));
  const columns = [_("Name"), _("Scope"), _("Made"), _("Good until"), _("Last used"), ""];
  put(place, table(_("API tokens"), columns, tokens.map(tokenRow)));
}

function tokenRow(token) {
  return [
    h("b", { class: "name" }, token.name),
    h("span", {}, SCOPES()[token.scope], " ", h("code", { class: "muted" }, token.scope)),
    at(token.created_at),
    until(token.expires_at),
    token.last_used_at ? at(token.last_used_at) : h("span", { class: "muted" }, _("Not yet")),
    h(
      "button",
      {
        class: "btn danger small",
        type: "button",
        "aria-label": _("Revoke {name}", { name: token.name }),
        onclick: () => revoke(token),
      },
      _("Revoke"),
    ),
  ];
}

function until(expires) {
  if (!expires) return _("Until it is revoked");
  const left = new Date(expires) - Date.now();
  if (left <= 0) return badge("bad", "err", _("Expired {time}", { time: moment(expires) }));
  return left < SOON ? badge("warn", "hour", moment(expires)) : at(expires);
}

async function revoke(token) {
  const sure = await confirmed({
    title: _("Revoke “{name}”?", { name: token.name }),
    text: _("Whatever uses it is refused from now on. It can’t be brought back; a new one can be made."),
    choices: [{ value: "yes", label: _("Revoke") }],
  });
  if (!sure || !(await removed($("#tokens-list"), `/api/tokens/${token.id}`))) return;
  toast(_("“{name}” is revoked.", { name: token.name }));
  await listTokens();
  focusOn("#tokens-title");
}

function makingTokens() {
  const dialog = $("#new-token");
  const name = $("#token-name");
  const days = $("#token-days");
  const other = $("#token-other");
  const hint = $("#token-name-said").textContent;
  let busy = false;

  days.addEventListener("change", () => {
    other.hidden = days.value !== "other";
    if (!other.hidden) other.focus();
  });
  $("#token-cancel").addEventListener("click", () => dialog.close());
  name.addEventListener("input", () => said("", hint));
  $("#token").addEventListener("submit", async (event) => {
    event.preventDefault();
    put($("#token-problem"));
    if (!name.value.trim()) {
      said("bad", _("A token needs a name."));
      return name.focus();
    }
    if (busy) return;
    busy = true;
    const asked = { name: name.value.trim(), scope: $("[name=scope]:checked").value, days: lasting() };
    try {
      show(await post("/api/tokens", asked));
      dialog.close();
      focusOn("#made-title");
      $("#token").reset();
      other.hidden = true;
      listTokens();
    } catch (error) {
      put($("#token-problem"), failure(error));
      if (passing(error)) listTokens(); // it may have been made all the same: whoever sees it there can revoke it
    }
    busy = false;
  });

  function lasting() {
    const asked = days.value === "other" ? other.value : days.value;
    return asked === "" && days.value !== "other" ? null : Number(asked);
  }

  function said(tone, text) {
    put($("#token-name-said"), tone && icon("err", tone), text);
    if (tone) name.setAttribute("aria-invalid", "true");
    else name.removeAttribute("aria-invalid");
  }
}

// Not even the button of the other language takes it away unasked.
addEventListener("beforeunload", (event) => $("#made").firstChild && event.preventDefault());

/** The secret of a new token, which nobody can ask for again: it stays until it is put away. */
function show(token) {
  const server = location.origin;
  const close = () => {
    put($("#made"));
    focusOn("#tokens-title");
  };
  put(
    $("#made"),
    h(
      "div",
      { class: "made" },
      h(
        "h3",
        { id: "made-title", tabindex: -1 },
        icon("key"),
        _("“{name}”: copy its secret now", { name: token.name }),
      ),
      h("p", { class: "muted" }, _("It is shown this once. Whoever has it may do what its scope allows.")),
      command(token.secret, _("Copy the secret")),
      h("p", { class: "label" }, _("With curl")),
      command(`curl -H "Authorization: Bearer ${token.secret}" ${server}/api/runs`, _("Copy the curl line")),
      h("p", { class: "label" }, _("With the command line, on another machine")),
      command(`export ONESEEK_SERVER=${server} ONESEEK_TOKEN=${token.secret}`, _("Copy the line for the shell")),
      h("button", { class: "btn", type: "button", onclick: close }, icon("check"), _("I have kept it")),
    ),
  );
}

const command = (text, label) => h("div", { class: "cmd" }, h("code", {}, text), copier(text, label));

// -- sessions -------------------------------------------------------------------------------------------------------

async function listSessions() {
  const place = $("#sessions-list");
  const told = await listed(place, listSessions, "/api/sessions", "/api/session");
  if (!told) return;
  const { sessions, id: mine } = told;
  const others = sessions.filter((session) => session.id !== mine);
  const button = $("#end-others");
  button.hidden = !others.length;
  button.onclick = () => endOthers(others);
  const columns = [_("Browser"), _("Since"), _("Last used"), _("Ends"), ""];
  put(
    place,
    table(
      _("Sessions"),
      columns,
      sessions.map((session) => sessionRow(session, session.id === mine)),
    ),
  );
}

function sessionRow(session, mine) {
  const name = browser(session.agent);
  return [
    h(
      "span",
      { class: "row", title: session.agent },
      h("b", { class: "name" }, name),
      mine && badge("accent", "check", _("This one")),
    ),
    at(session.created_at),
    mine ? _("Now") : at(session.last_used_at),
    at(session.expires_at),
    mine
      ? h("button", { class: "btn small", type: "button", "data-sign-out": true }, _("Sign out"))
      : h(
          "button",
          {
            class: "btn danger small",
            type: "button",
            "aria-label": _("End the session of {name}, since {time}", { name, time: moment(session.created_at) }),
            onclick: () => end(session),
          },
          _("End"),
        ),
  ];
}

async function end(session) {
  if (!(await removed($("#sessions-list"), `/api/sessions/${session.id}`))) return;
  toast(_("The session is over."));
  await listSessions();
  focusOn("#sessions-title");
}

async function endOthers(others) {
  const sure = await confirmed({
    title: _("End all other sessions?"),
    text: _n(others.length, "{n} browser has to sign in again.", "{n} browsers have to sign in again."),
    choices: [{ value: "yes", label: _("End them") }],
  });
  if (!sure) return;
  const ended = await Promise.all(others.map((session) => removed($("#sessions-list"), `/api/sessions/${session.id}`)));
  if (!ended.every(Boolean)) return;
  toast(_("All other sessions are over."));
  await listSessions();
  focusOn("#sessions-title");
}

/** What a browser is called, from what it calls itself: those that pretend to be another come first. */
function browser(agent) {
  const known = {
    Edg: "Edge",
    OPR: "Opera",
    Firefox: "Firefox",
    HeadlessChrome: "Chromium",
    Chrome: "Chrome",
    Safari: "Safari",
  };
  const systems = {
    iPhone: "iPhone",
    iPad: "iPad",
    Android: "Android",
    Windows: "Windows",
    "Mac OS X": "macOS",
    CrOS: "ChromeOS",
    Linux: "Linux",
  };
  const name = Object.keys(known).find((each) => agent.includes(`${each}/`));
  const system = Object.keys(systems).find((each) => agent.includes(each));
  if (!name) return agent || _("A program without a name");
  return system ? _("{name} on {system}", { name: known[name], system: systems[system] }) : known[name];
}

// -- the passphrase -------------------------------------------------------------------------------------------------

function changingPassphrase() {
  const form = $("#change");
  const current = $("#current");
  const wanted = $("#new");
  const good = judged(wanted, $("#again"));
  let busy = false;

  current.addEventListener("input", () => say(current, ""));
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    put($("#change-problem"));
    const right = good();
    if (!current.value) {
      say(current, _("The passphrase that is good now is needed too."), "bad");
      return current.focus();
    }
    if (!right || busy) return;
    busy = true;
    hideAll();
    try {
      await ask("PUT", "/api/passphrase", { current: current.value, new: wanted.value });
      form.reset();
      say(current, "");
      put(
        $("#change-problem"),
        h(
          "p",
          { class: "msg" },
          icon("check", "good"),
          h("span", {}, _("The passphrase is changed. All other sessions are over.")),
        ),
      );
      tell(_("The passphrase is changed. All other sessions are over."));
      listSessions();
    } catch (error) {
      if (error.status === 403) {
        say(current, `${error.message} ${error.fix}`, "bad");
        current.focus();
      } else put($("#change-problem"), failure(error));
    }
    busy = false;
  });
}

// -- lists ----------------------------------------------------------------------------------------------------------

/** What the API tells at some paths, as one; null where it does not, which is said where the list would be. */
async function listed(place, again, ...paths) {
  try {
    const told = await Promise.all(paths.map((path) => get(path)));
    return Object.assign({}, ...told);
  } catch (error) {
    put(place, failure(error, again));
    return null;
  } finally {
    place.removeAttribute("aria-busy");
  }
}

/** Whether something was removed, or was already; else it is said above the list why not. */
async function removed(place, path) {
  try {
    await ask("DELETE", path);
  } catch (error) {
    if (error.status !== 404) {
      $(".failure", place)?.remove();
      place.prepend(failure(error));
      return false;
    }
  }
  return true;
}

/** A table that becomes a list of cards where it is narrow, and is one to who listens all the same. */
function table(label, columns, rows) {
  const last = columns.length - 1;
  return h(
    "table",
    { class: "table stacks cards", role: "table", "aria-label": label },
    h(
      "thead",
      { role: "rowgroup" },
      h(
        "tr",
        { role: "row" },
        columns.map((column) =>
          column
            ? h("th", { role: "columnheader", scope: "col" }, column)
            : h("th", { role: "columnheader", scope: "col" }, h("span", { class: "vh" }, _("Actions"))),
        ),
      ),
    ),
    h(
      "tbody",
      { role: "rowgroup" },
      rows.map((cells) =>
        h(
          "tr",
          { role: "row" },
          cells.map((cell, place) =>
            h(
              "td",
              {
                role: place ? "cell" : "rowheader",
                class: place === last && "num",
                "data-label": columns[place] || null,
              },
              cell,
            ),
          ),
        ),
      ),
    ),
  );
}

const at = (time) => (time ? h("time", { datetime: time, title: fully(time) }, moment(time)) : NONE);

function focusOn(selector) {
  const element = $(selector);
  element.tabIndex = -1;
  element.focus();
}
