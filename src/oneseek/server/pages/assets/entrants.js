// The models that take part in a run.

/** What a model of a run is called. */
export const called = (run, key) =>
  run.display_names?.[key] ?? run.leaderboard?.find((each) => each.model === key)?.display_name ?? key;

/** A model's place in the selection, from 0: its marker and colour. */
export const place = (run, key) => run.base_models.indexOf(key);

/** What models are ranked by: "bits_per_byte" or "val_loss". */
export const ranked = (run) =>
  run.rank_by ?? (run.leaderboard?.some((each) => each.bits_per_byte != null) ? "bits_per_byte" : "val_loss");

/** Whether another program trains it, and only reports how it goes. */
export const outside = (run) => (run.engine ? run.engine === "outside" : run.version === "");
