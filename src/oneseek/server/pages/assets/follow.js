// A run's events over the socket, through lost connections and restarts of the server, until nothing more can come.

const WAITS = [300, 1000, 2000, 3000]; // ms before each try
const OFFLINE = 5000; // ms without a connection after which it is called lost
const SILENCE = 45_000; // ms; the server says something every 15 s

/** Follow a run. after(): the seq of the last event that is known. told(events): what has come, in order; it may hold
 * what is known already. state(name): live, reconnecting or offline. check(): whether the server is there, resolved
 * before another try; what it throws ends it. ended({code, reason, error}): it is tried no more. */
export function follow(runId, { after, told, state, check, ended }) {
  let socket = null;
  let tries = 0;
  let heard = Date.now();
  let waiting = 0;
  let lost = 0;
  let checking = false;
  let over = false;

  function connect() {
    const address = new URL("/ws/training", location.href);
    address.protocol = location.protocol === "https:" ? "wss:" : "ws:";
    address.search = new URLSearchParams({ runId, after: after(), batch: 1 });
    heard = Date.now();
    socket = new WebSocket(address);
    socket.onmessage = ({ data }) => {
      heard = Date.now();
      tries = 0;
      clearTimeout(lost);
      lost = 0;
      state("live");
      told(JSON.parse(data));
    };
    socket.onclose = closed;
  }

  function closed({ code, reason }) {
    socket = null;
    if (over) return;
    if ([1000, 1008, 1009, 1011].includes(code)) return end({ code, reason });
    if (!lost) {
      state("reconnecting");
      lost = setTimeout(() => state("offline"), OFFLINE);
    }
    waiting = setTimeout(again, WAITS[Math.min(tries++, WAITS.length - 1)]);
  }

  async function again() {
    clearTimeout(waiting);
    waiting = 0;
    if (over || socket || checking) return;
    checking = true;
    const there = await check().catch((error) => end({ error }));
    checking = false;
    if (over) return;
    if (there) connect();
    else closed({});
  }

  function end(how) {
    over = true;
    clearTimeout(lost);
    clearTimeout(waiting);
    clearInterval(watch);
    removeEventListener("online", again);
    document.removeEventListener("visibilitychange", looked);
    ended(how);
  }

  /** A connection that broke without a word is noticed by its silence. */
  const watch = setInterval(() => {
    if (socket && Date.now() - heard > SILENCE) drop();
  }, 5000);

  function drop() {
    const silent = socket;
    silent.onclose = silent.onmessage = null;
    silent.close();
    closed({});
  }

  const looked = () => {
    if (!document.hidden && waiting) again();
  };

  addEventListener("online", again);
  document.addEventListener("visibilitychange", looked);
  connect();
}
