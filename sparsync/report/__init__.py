"""`sparsync report`: what became of a run, read from its directory, as one HTML file.

`history.py` makes a history of events.jsonl, `figures.py` draws it, `page.py` puts the page together.
"""
