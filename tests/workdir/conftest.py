from tiny_jobs import cfg, text_file

__all__ = ["cfg", "text_file"]
