"""Corpora of documentation in several languages, made where they are used from Debian packages."""
