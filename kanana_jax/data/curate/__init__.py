"""Curation: documents -> documents, as a chain of named stages with one report.

python -m kanana_jax.data.curate IN... --to=OUT

Every stage is made of pure functions of a shard's documents (`stage.Stage`). What a run has done
lies in its folder, so a killed run can go on, and it writes the same bytes.
"""
