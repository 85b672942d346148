"""Linear time-varying model predictive control of a unicycle around a time-parametrised path, solved with OSQP.

Errors in the frame of the reference pose (x_r, y_r, θ_r): e_s along it, e_n to its left, e_θ = θ − θ_r. Around the
reference (v_r, ω_r = κ·v_r) the unicycle obeys, to first order,

    ė_s = ω_r e_n + (v − v_r),    ė_n = −ω_r e_s + v_r e_θ,    ė_θ = ω − ω_r

(Kanayama et al., "A stable tracking control method for an autonomous mobile robot", ICRA 1990). The states are
eliminated, so the unknowns are the inputs alone and the constraint matrix is constant: from one control period to the
next only numbers change, never a structure.
"""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import osqp
from scipy import sparse

from .geometry import Twist2D
from .limits import DriveLimits
from .reference import ReferencePath
from .tracking import Tracker, TrackerConfig, pursue

# A larger offset leaves the region where the linear model holds; steering is saturated there anyway [m].
LARGEST_OFFSET = 0.5


class MpcTracker(Tracker):
    """Tracks with OSQP; when the solver fails or takes too long, this period's command comes from pure pursuit."""

    def __init__(self, config: TrackerConfig, limits: DriveLimits) -> None:
        super().__init__(config, limits)
        n = 2 * config.horizon  # unknowns v_0, ω_0, v_1, ω_1, …
        self._difference = np.eye(n) - np.eye(n, k=-2)
        change_weight = np.tile([config.weight_speed_change, config.weight_turn_change], config.horizon)
        self._change_cost = self._difference.T @ (change_weight[:, None] * self._difference)
        self._first_change_weight = change_weight[:2]
        self._input_weight = np.tile([config.weight_speed, config.weight_turn], config.horizon)
        self._since = np.tri(config.horizon)
        self._state_weight = np.tile(
            [config.weight_along, config.weight_across, config.weight_heading], config.horizon
        )
        columns, rows = np.tril_indices(n)  # upper triangle, column by column, as OSQP wants it
        self._upper = (rows, columns)
        self._solver = osqp.OSQP()
        self._solver.setup(
            P=sparse.csc_matrix((np.ones(rows.size), (rows, columns)), shape=(n, n)),
            q=np.zeros(n),
            # every input, then every change from the input before it (of the first: from the command in force)
            A=sparse.vstack([sparse.eye(n), sparse.csc_matrix(self._difference)]).tocsc(),
            l=-np.ones(2 * n),
            u=np.ones(2 * n),
            verbose=False,
            warm_starting=True,
            eps_abs=1e-4,
            eps_rel=1e-4,
            max_iter=1000,
            time_limit=config.solver_time_limit,
        )

    def _law(self, pose: np.ndarray, velocity: Twist2D, path: ReferencePath, dt: float) -> Twist2D:
        started = time.perf_counter()
        reference = self._reference(velocity.v, path)
        command, failure = self._solve(*self._cost(reference, velocity), *self._bounds(velocity, dt))
        self.report = replace(self.report, solver_seconds=time.perf_counter() - started, fallback=failure)
        if command is None:
            command = pursue(
                self.config, pose, velocity.v, path, self._progress, self._reference_speed(self._progress)
            )
        return command

    def _reference(self, speed: float, path: ReferencePath) -> np.ndarray:
        """Inputs (horizon, 2) along the path: the profile's speed, reached with the drive's acceleration."""
        step, s = self.config.step, self._progress
        inputs = np.zeros((self.config.horizon, 2))
        for k in range(self.config.horizon):
            speed = min(self._reference_speed(s), speed + self.limits.acceleration * step)
            inputs[k] = speed, speed * np.interp(s + 0.5 * speed * step, path.s, path.curvature)
            s += speed * step
        return inputs

    def _cost(self, reference: np.ndarray, velocity: Twist2D) -> tuple[np.ndarray, np.ndarray]:
        """Hessian (n, n) and gradient (n,) of the cost in the inputs."""
        step, v, omega = self.config.step, reference[:, 0], reference[:, 1]
        # Of step k, with offsets as complex numbers e_s + i·e_n and inputs relative to the reference's:
        #   offset ← offset·(1 − i·step·ω_k) + i·step·v_k·e_θ + step·Δv_k + i·½·step²·v_k·Δω_k
        #   e_θ ← e_θ + step·Δω_k      (the heading changes during the step already: hence the ½)
        # Sums of it, with `turned` the product of the factors so far:
        turned = np.cumprod(1.0 - 1j * step * omega)
        along_heading = 1j * step * v / turned
        summed = np.cumsum(along_heading)
        offset = min(max(self.report.cross_track, -LARGEST_OFFSET), LARGEST_OFFSET)
        free = turned * (1j * offset + self.report.heading_error * summed)
        since = self._since  # since[k, j]: step k is not before input j
        by_speed = since * (turned[:, None] * (step / turned))
        by_turn = since * (step * turned[:, None] * (summed[:, None] - summed + 0.5 * along_heading))
        effects = np.zeros((self.config.horizon, 3, self.config.horizon, 2))  # step, state, input's step, v or ω
        effects[:, 0, :, 0], effects[:, 1, :, 0] = by_speed.real, by_speed.imag
        effects[:, 0, :, 1], effects[:, 1, :, 1] = by_turn.real, by_turn.imag
        effects[:, 2, :, 1] = step * since
        n = 2 * self.config.horizon
        effects = effects.reshape(-1, n)
        errors = np.stack([free.real, free.imag, np.full_like(v, self.report.heading_error)], axis=1).ravel()
        weighted = self._state_weight[:, None] * effects
        target = reference.ravel()
        hessian = effects.T @ weighted + self._change_cost
        hessian[np.diag_indices(n)] += self._input_weight
        gradient = weighted.T @ (errors - effects @ target) - self._input_weight * target
        gradient[:2] -= self._first_change_weight * np.array(velocity)
        return hessian, gradient

    def _bounds(self, velocity: Twist2D, dt: float) -> tuple[np.ndarray, np.ndarray]:
        """Lower and upper bounds (2n,) of inputs and their changes."""
        config, limits = self.config, self.limits
        slower, faster = limits.deceleration * config.step, limits.acceleration * config.step
        turn = limits.angular_acceleration * config.step
        lower = np.tile([0.0, -config.omega_max], 2 * config.horizon)
        upper = np.tile([limits.v_max, config.omega_max], 2 * config.horizon)
        n = 2 * config.horizon
        lower[n:] = np.tile([-slower, -turn], config.horizon)
        upper[n:] = np.tile([faster, turn], config.horizon)
        # The first input follows the command in force, one control period later; a command that was faster than
        # today's bounds may always come down to them.
        share, now = dt / config.step, np.array(velocity)
        lower[n : n + 2] = np.minimum(now + share * lower[n : n + 2], upper[:2])
        upper[n : n + 2] = np.maximum(now + share * upper[n : n + 2], lower[:2])
        return lower, upper

    def _solve(
        self, hessian: np.ndarray, gradient: np.ndarray, lower: np.ndarray, upper: np.ndarray
    ) -> tuple[Twist2D | None, str]:
        """The first input of the solution, or None and why there is none."""
        try:
            self._solver.update(Px=hessian[self._upper], q=gradient, l=lower, u=upper)
            result = self._solver.solve(raise_error=False)
        except (ValueError, osqp.OSQPException) as error:
            return None, f"solver error: {error}"
        if result.info.status_val != osqp.SolverStatus.OSQP_SOLVED:
            return None, f"solver: {result.info.status}"
        first = result.x[:2]
        if not np.isfinite(first).all():
            return None, "solver: solution is not finite"
        return Twist2D(float(first[0]), float(first[1])), ""
