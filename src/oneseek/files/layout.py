"""Every path that OneSeek reads or writes. Nothing here touches the disk."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from oneseek.names import FAMILY, SLUG, versioned


@dataclass(frozen=True)
class Home:
    """Where an administrator's things are: `root` is ONESEEK_HOME, `models` MODELS_DIR, `cache` the Hugging Face cache,
    None where it is not looked into."""

    root: Path
    models: Path
    cache: Path | None = None

    @property
    def datasets(self) -> Path:
        return self.root / "datasets"

    @property
    def statistics(self) -> Path:
        """Token counts of whole datasets; nothing is lost with them."""
        return self.datasets / "statistics"

    @property
    def keys(self) -> Path:
        return self.root / "keys"

    @property
    def signer_key(self) -> Path:
        """The private key that run directories are signed with, unless LEDGER_PRIVATE_KEY_PATH names another."""
        return self.keys / "run-signer.pem"

    @property
    def log_key(self) -> Path:
        """The private key of the ledger in this home."""
        return self.keys / "log.ed25519"

    @property
    def last_checkpoint(self) -> Path:
        """What the ledger in this home signed last: kept beside its key, so that an older ledger.db is found out."""
        return self.keys / "log.checkpoint"

    @property
    def known_logs(self) -> Path:
        """Public keys of ledger services that this home has used, one a line."""
        return self.keys / "known-logs"

    @property
    def ledger(self) -> Path:
        return self.root / "ledger.db"

    @property
    def database(self) -> Path:
        """The server's own: queue, access."""
        return self.root / "oneseek.db"

    @property
    def uploads(self) -> Path:
        """Files while they arrive."""
        return self.datasets / ".uploads"

    def device_lock(self, device: str) -> Path:
        """Held by the process whose run has the device."""
        return self.root / "locks" / f"{device.replace(':', '-')}.lock"

    def run_log(self, run_id: str) -> Path:
        """What the process of a run has said that the server started."""
        return self.root / "logs" / f"{run_id}.log"


@dataclass(frozen=True)
class Results:
    """What runs leave behind in one output directory (the models directory unless configured)."""

    root: Path

    @property
    def family(self) -> Path:
        return self.root / SLUG

    @property
    def adapters(self) -> Path:
        return self.family / "lora_adapters"

    @property
    def weights(self) -> Path:
        return self.family / "weights"

    @property
    def token_cache(self) -> Path:
        """Encoded datasets, for all runs; nothing is lost with it."""
        return self.family / "token_cache"

    @property
    def current(self) -> Path:
        return self.root / f"{FAMILY}-CURRENT"

    @property
    def runs(self) -> Path:
        return self.root / "oneseek-certified"

    def versioned_adapter(self, version: str, key: str) -> Path:
        return self.adapters / versioned(version, key)

    def newest_adapter(self, key: str) -> Path:
        return self.adapters / f"{key}-adapter"

    def weights_file(self, version: str, key: str) -> Path:
        return self.weights / f"{versioned(version, key)}.pth"

    def metadata(self, version: str) -> Path:
        return self.weights / f"{versioned(version)}.json"

    def reservation(self, version: str) -> Path:
        """Holds a version for a run until its metadata is written."""
        return self.weights / f"{versioned(version)}.reserved"

    def run(self, run_id: str) -> RunDirectory:
        return RunDirectory(self.runs / run_id)


@dataclass(frozen=True)
class RunDirectory:
    """One run's own directory; `work` is there until the run is complete."""

    root: Path

    @property
    def run_id(self) -> str:
        return self.root.name

    @property
    def results(self) -> Results:
        return Results(self.root.parent.parent)

    @property
    def journal(self) -> Path:
        return self.root / "journal.jsonl"

    @property
    def recipe(self) -> Path:
        return self.root / "recipe.json"

    @property
    def dna(self) -> Path:
        return self.root / "oneseek_dna.json"

    @property
    def training_results(self) -> Path:
        return self.root / "training_results.json"

    @property
    def live_metrics(self) -> Path:
        return self.root / "live_metrics.json"

    @property
    def provenance(self) -> Path:
        return self.root / "provenance.json"

    @property
    def manifest(self) -> Path:
        return self.root / "manifest.json"

    @property
    def signature(self) -> Path:
        return self.root / "model.sig"

    @property
    def ledger_proof(self) -> Path:
        return self.root / "ledger_proof.json"

    @property
    def quarantine(self) -> Path:
        """Rows of the dataset that could not be used, with line and reason."""
        return self.root / "quarantine.jsonl"

    @property
    def validation_quarantine(self) -> Path:
        """The same of the validation dataset."""
        return self.root / "quarantine-validation.jsonl"

    @property
    def work(self) -> Path:
        return self.root / "work"

    @property
    def lock(self) -> Path:
        """Held by the process that trains the run, for as long as it lives."""
        return self.work / "run.lock"

    @property
    def process(self) -> Path:
        """Which process that is."""
        return self.work / "process.json"

    @property
    def stop_request(self) -> Path:
        return self.work / "stop"

    def adapter(self, key: str) -> Path:
        return self.root / "adapters" / key

    def worker(self, key: str) -> Path:
        """A worker's own directory: checkpoints and export."""
        return self.work / "workers" / key

    def export(self, key: str) -> Path:
        return self.worker(key) / "export"

    def worker_log(self, key: str) -> Path:
        return self.work / "logs" / f"{key}.log"
