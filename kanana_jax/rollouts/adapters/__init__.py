"""Tasks of other packages, in English; not installed with this one (BUILD.md, Install)."""
