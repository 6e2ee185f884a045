"""Tables and pictures of what was measured: from data, no training here."""
