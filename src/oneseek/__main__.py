"""`python -m oneseek` is `oneseek`."""

from oneseek.cli import main

main()
