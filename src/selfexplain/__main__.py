"""`python -m selfexplain` is the command `selfexplain`."""

from selfexplain.cli import main

main()
