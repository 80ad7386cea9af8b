from tiny_jobs import cfg, corpus, text_file

__all__ = ["cfg", "corpus", "text_file"]
