"""Tasks of other packages, in English; those are not installed with it (BUILD.md, Install)."""
