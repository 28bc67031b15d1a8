"""Keep what this release writes, for every later one to verify: two certified runs, their ledger and the keys to pin.

    cd tests && python -m support.keep DIRECTORY

DIRECTORY is where the runs are made; it is in their journals, and is removed. The result is kept/<version>/. Done once
a release, and never again: what was kept is only added to.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

from oneseek import __version__, runs
from oneseek.certificate.keys import signer_key
from oneseek.certificate.signature import public_pem
from oneseek.ledger.keys import log_key
from support import tiny_models
from support.runs import Town

KEPT = Path(__file__).parent.parent / "kept"

CURVES = {
    "alfa-1b": {"val_losses": [3.0, 2.0, 1.5], "bits_per_byte": [1.5, 1.0, 0.75]},
    "beta-1b": {"val_losses": [4.0, 3.5, 3.6], "bits_per_byte": [2.0, 1.75, 1.8]},
}


def scripted(town: Town) -> runs.Result:
    """A run of the scripted engine: two models, three epochs, a row that could not be used."""
    for name, curve in CURVES.items():
        town.add_model(name, curve)
    rows: list[dict[str, object]] = [*tiny_models.chat_rows(20), {"messages": []}]
    town.dataset.write_text("".join(json.dumps(row) + "\n" for row in rows))
    run = town.submit(*CURVES, training__num_epochs=3, data__bad_rows="quarantine")
    return runs.complete(run, town.home, {})


def trained(town: Town) -> runs.Result:
    """A run of the real engine, as small as it gets."""
    tiny_models.write_model(town.home.models / "gamma-real", "llama")
    tiny_models.write_rows(town.dataset, tiny_models.chat_rows(20))
    config = town.config("gamma-real", training__num_epochs=1, lora__r=2)
    return runs.complete(runs.submit(config, town.home), town.home, {})


def main(made_in: Path) -> None:
    target = KEPT / __version__
    town = Town(made_in)
    made = [scripted(town), trained(town)]
    for result in made:
        if result.status != "certified":
            raise RuntimeError(f"{result.run_id} is {result.status}")
        shutil.copytree(result.certified_dir, target / result.run_id)
    shutil.copy(town.home.ledger, target / "ledger.db")
    signer = public_pem(signer_key(town.home, {}).public_key())
    (target / "keys.txt").write_text(f"{signer}{log_key(town.home).verifier}\n")
    shutil.rmtree(made_in)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
