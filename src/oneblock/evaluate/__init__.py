"""Scores as data: functions of (denoiser, plan, data)."""
