"""A machine that runs roles as services: what belongs on it (`plan`), and putting it there and away (`install`).

`systemd/` holds the units as they are shipped; `deploy/systemd` is the same directory.
"""
