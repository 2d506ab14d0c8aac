"""A small ordinary Django project: sessions, an upload form, a streamed answer, a file, a redirect; and downloads."""
