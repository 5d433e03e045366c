"""`sparsync doctor`: what would fail on this machine, and what to do about it, before anything is started.

Each check is a function from a `Node`, which says what the machine is for, to one `Finding`. `checks.py` lists them in
the order in which they are shown. Nothing is changed but a file that is written and removed in the data directory.
"""
