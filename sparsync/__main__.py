"""`python -m sparsync`: the same as the `sparsync` script."""

from sparsync.cli import main

if __name__ == "__main__":
    main()
