from tiny_jobs import cfg, corpus, restored_cache, text_file

__all__ = ["cfg", "corpus", "restored_cache", "text_file"]
