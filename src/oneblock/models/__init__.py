"""Backbones: plain networks in three parts, stem, layers and head. They know nothing of blocks or noise bands."""
