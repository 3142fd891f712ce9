"""`python -m clsuite`."""

from .cli import main

main()
