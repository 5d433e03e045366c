"""Faults on purpose: a TCP proxy that misbehaves by a seed, and chaos among the processes of a live run.

What is decided, and when, is plain and replays from its seed (`rules`, `http2`, `plan`); `proxy` and `chaos`
carry it out, `processes` and `ballast` are what they touch.
"""
