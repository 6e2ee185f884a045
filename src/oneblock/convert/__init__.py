"""Doors to other libraries' models; nothing here is imported unless it is asked for."""
