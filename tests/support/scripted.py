"""`oneseek`, whose server trains by script: `python -m support.scripted serve --home HOME`."""

from __future__ import annotations

from functools import partial

from oneseek.cli import main
from oneseek.runs.queue import Supervisor
from oneseek.server import serve

if __name__ == "__main__":
    vars(serve).update(Supervisor=partial(Supervisor, engine="scripted"))
    main()
