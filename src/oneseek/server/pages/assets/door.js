// The door: the first passphrase by a one-time link, and signing in by the passphrase.
import { $, _, duration, failure, get, h, icon, post, put, tell } from "./ui.js";
import { hideAll, judged, say, showable } from "./passphrase.js";

const HOME = "/train";

showable();
if ($("#login")) signingIn();
else settingUp();

// -- signing in -----------------------------------------------------------------------------------------------------

async function signingIn() {
  const input = $("#passphrase");
  const button = $("#submit");
  let busy = false;

  $("#login").addEventListener("submit", async (event) => {
    event.preventDefault();
    if (busy || button.getAttribute("aria-disabled") === "true") return;
    if (!input.value) return wrong(_("Write the passphrase."));
    busy = true;
    put($("#problem"));
    say(input, "");
    hideAll();
    try {
      await post("/api/login", { passphrase: input.value });
      location.replace(wanted());
    } catch (error) {
      busy = false;
      if (error.status === 429) wait(error.wait, button, () => input.select());
      else if (error.status === 403) refused(error);
      else put($("#problem"), failure(error));
    }
  });
  $("#look-again").addEventListener("click", () => look());
  await look(performance.getEntriesByType("navigation")[0]?.redirectCount > 0);

  /** Who is known goes on; where nobody can be, it says how to begin. turnedAway: by a page that knew nobody. */
  async function look(turnedAway = false) {
    try {
      const { signed_in: known, set_up: ready } = await get("/api/session");
      if (known && turnedAway) return put($("#problem"), failure(unlike()));
      if (known) return location.replace(wanted());
      const changed = $("#not-set-up").hidden !== ready;
      $("#sign-in").hidden = !ready;
      $("#not-set-up").hidden = ready;
      if (ready) input.focus();
      else if (!changed) tell(_("There is still no administrator."));
      put($("#problem"));
    } catch (error) {
      put($("#problem"), failure(error, look));
    }
  }

  async function refused(error) {
    const { set_up: ready } = await get("/api/session").catch(() => ({ set_up: true }));
    if (!ready) return look();
    put($("#problem"), failure(error));
    say(input, "");
    input.setAttribute("aria-invalid", "true");
    input.select();
  }

  function wrong(text) {
    say(input, text, "bad");
    input.focus();
  }
}

/** Count the seconds down that the server wants to be left alone; until then, `button` does nothing. */
function wait(seconds, button, done) {
  const until = Date.now() + 1000 * (seconds || 1);
  const said = $("#waiting");
  put(
    $("#problem"),
    failure({ message: _("Too many passphrases were wrong."), fix: _("Wait a little, then try again.") }),
  );
  button.setAttribute("aria-disabled", "true");
  said.hidden = false;
  const timer = setInterval(count, 250);
  count();

  function count() {
    const left = Math.ceil((until - Date.now()) / 1000);
    if (left > 0) {
      put(said, icon("hour"), h("span", {}, _("The next one is looked at in {time}.", { time: duration(left) })));
      return;
    }
    clearInterval(timer);
    button.removeAttribute("aria-disabled");
    said.hidden = true;
    put($("#problem"));
    tell(_("You can try again now."));
    done();
  }
}

/** Why a page may not know who is known here: going back there would lead here again, and so on. */
const unlike = () => ({
  message: _("You are signed in, but the page that you asked for does not know it."),
  fix: _(
    "Another program at {host} may have set a cookie by the name of ours. Delete the cookies of {host}, then sign in again.",
    { host: location.hostname },
  ),
});

/** Where to go on: a place of this site, as `next` in the address says, else the first page. */
function wanted() {
  const next = new URLSearchParams(location.search).get("next") ?? "";
  if (!next.startsWith("/") || !URL.canParse(next, location.origin)) return HOME;
  const place = new URL(next, location.origin);
  const elsewhere = place.origin !== location.origin || place.pathname.startsWith("//");
  return elsewhere || ["/login", "/setup"].includes(place.pathname) ? HOME : place.href;
}

// -- the first passphrase -------------------------------------------------------------------------------------------

function settingUp() {
  const input = $("#passphrase");
  const good = judged(input, $("#again"));
  let busy = false;

  $("#setup").addEventListener("submit", async (event) => {
    event.preventDefault();
    put($("#problem"));
    if (busy || !good()) return;
    busy = true;
    hideAll();
    try {
      await post("/api/setup", { link: history.state.link, passphrase: input.value });
      location.replace(HOME);
    } catch (error) {
      busy = false;
      if ([403, 409].includes(error.status)) turnedAway(error);
      else if (error.status === 400) say(input, `${error.message} ${error.fix}`, "bad");
      else put($("#problem"), failure(error));
    }
  });
  addEventListener("hashchange", begin);
  begin();

  /** The secret of the link leaves the address bar, and with it what others may see or keep; a reload still has it. */
  async function begin() {
    const given = new URLSearchParams(location.hash.slice(1)).get("link");
    if (given) history.replaceState({ link: given }, "", "/setup");
    const link = history.state?.link;
    $("#choose").hidden = !link;
    $("#no-link").hidden = Boolean(link);
    if (!link) return;
    put($("#refused"));
    input.focus();
    const { set_up: before } = await get("/api/session").catch(() => ({}));
    $("#first").hidden = Boolean(before);
    $("#anew").hidden = !before;
  }

  /** The link is good for nothing: a new one is needed. */
  function turnedAway(error) {
    history.replaceState(null, "", "/setup");
    put($("#refused"), failure(error));
    $("#choose").hidden = true;
    $("#no-link").hidden = false;
  }
}
