"""Generated from proto/wire/v1 by `make proto`; never edited by hand."""
