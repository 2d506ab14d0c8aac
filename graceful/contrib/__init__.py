"""Small bridges between graceful and other people's libraries; each imports its library only when used."""
