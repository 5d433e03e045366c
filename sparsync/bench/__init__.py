"""The benchmarks that anyone can run: `sparsync bench codec` and `sparsync bench wire`.

Every result is one JSON object that says what was measured, on which machine, with which versions and options.
Speeds are compared as ratios of measurements that take turns (A B A B), because machines drift.
"""
