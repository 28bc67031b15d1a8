// Reading what the server sends while it is still sending.

/** The objects of a response that has one JSON object on each line, as they come. A line that is cut off is left out:
 * whoever sends it was interrupted, which the reader raises. */
export async function* lines(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const parts = (rest + value).split("\n");
      rest = parts.pop();
      for (const part of parts) if (part) yield JSON.parse(part);
    }
  } finally {
    reader.cancel().catch(() => {}); // whoever stops reading early wants no more of it
  }
}
