"""Samplers: functions of (denoiser, z, grid, condition)."""

from oneblock.sample.grids import equal_mass_grid, flow_grid, karras_grid
from oneblock.sample.ode import SAMPLERS, Sampler, churn, dpm_solver_2m, euler, heun

__all__ = [
    "SAMPLERS",
    "Sampler",
    "churn",
    "dpm_solver_2m",
    "equal_mass_grid",
    "euler",
    "flow_grid",
    "heun",
    "karras_grid",
]
