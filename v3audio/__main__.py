"""`python -m v3audio`: the same as `v3audio`, where scripts are not on the path."""

from v3audio.cli import main

main()
