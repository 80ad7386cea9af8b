"""Corpora of documentation in several languages, made from Debian packages where they are used."""
