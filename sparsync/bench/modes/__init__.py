"""`sparsync bench modes`: every mode and the baselines train one model on the same data, in real processes.

In reading order: `methods` (what is compared), `cases` (the grid, and one cell of it), `stragglers` and `links` (what
makes training hard), `scripts/` (what the processes run), `running` (a case becomes a directory of raw files),
`reading` (those become one result), `results` (kept, so that nothing is measured twice), `figures` and `comparing`
(what results come to), `words`, `report`. A cluster and a baseline leave the same files, which one reader reads.
"""
