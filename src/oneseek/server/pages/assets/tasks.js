// Work that the server does by itself: followed while it goes on, and ended. It goes on when the page is closed.
import { _, ask, get } from "./ui.js";

const PAUSE = 1000; // milliseconds between two looks

/** Call `onProgress(task)` now and then while a task goes on, and `onEnd(task)` once. */
export function follow(id, { onProgress, onEnd }) {
  followers.add({ id, onProgress, onEnd });
  waiting ||= setTimeout(look, PAUSE);
}

/** Let a task end. */
export const cancel = (id) => ask("DELETE", `/api/tasks/${encodeURIComponent(id)}`);

/** Whether a task has ended, as asked or not. */
export const over = (task) => !["waiting", "running"].includes(task.status);

const followers = new Set();
let waiting = 0;

// One look for all of them. A stream of events for each would be a little quicker, but browsers open six connections to
// a server, for all its pages: two pages with a few downloads would leave none to open a third with.
async function look() {
  const asked = [...followers];
  const told = await get("/api/tasks").catch(() => null); // it may answer the next time
  waiting = setTimeout(look, PAUSE);
  for (const follower of told ? asked : []) {
    const task = told.tasks.find(({ id }) => id === follower.id) ?? forgotten(follower.id);
    if (over(task)) followers.delete(follower);
    try {
      follower[over(task) ? "onEnd" : "onProgress"](task);
    } catch (error) {
      reportError(error); // the others are told all the same
    }
  }
  if (followers.size) return;
  clearTimeout(waiting);
  waiting = 0;
}

const forgotten = (id) => ({
  id,
  kind: "pull",
  about: { model: "" },
  status: "failed",
  error: {
    message: _("The server does not know this task any more: it was started anew."),
    fix: _("Begin again: a download goes on from where it was."),
  },
});
