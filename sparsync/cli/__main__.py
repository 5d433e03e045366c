"""`python -m sparsync.cli`: the same as the `sparsync` script."""

from sparsync.cli import main

main()
