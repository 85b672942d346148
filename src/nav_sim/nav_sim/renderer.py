"""Draw RGB and metric depth in one pass, on the CPU if need be.

One `mjr_render` and one `mjr_readPixels` give both images. What lies outside of a camera's view cone is left out
before drawing, which is worth most with furniture of many triangles.

An OpenGL context belongs to the thread it was made on: make and use a renderer on one thread, and close it there.
"""

from __future__ import annotations

import math

import cv2
import mujoco
import numpy as np

from . import gl
from .camera import Camera
from .scene import FAR, GROUP_CULLED, GROUP_FURNITURE, GROUP_HOUSE, GROUP_ROBOT, NEAR


class Renderer:
    """Off-screen renderer of one model."""

    def __init__(self, model: mujoco.MjModel, camera: Camera) -> None:
        gl.require()
        self._model = model
        self._camera = camera
        self._gl = mujoco.GLContext(model.vis.global_.offwidth, model.vis.global_.offheight)
        self._gl.make_current()
        self._scene = mujoco.MjvScene(model, maxgeom=model.ngeom + 16)
        self._scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = 0
        self._scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = 0
        self._scene.flags[mujoco.mjtRndFlag.mjRND_HAZE] = 0
        self._scene.flags[mujoco.mjtRndFlag.mjRND_SKYBOX] = 0
        self._context = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._context)
        self._option = mujoco.MjvOption()
        self._option.geomgroup[:] = 0
        self._option.geomgroup[[GROUP_HOUSE, GROUP_FURNITURE]] = 1
        self._free_camera = mujoco.MjvCamera()
        self._group = model.geom_group.copy()
        self._shown = np.isin(self._group, (GROUP_HOUSE, GROUP_FURNITURE))
        self._near_far = (NEAR, FAR)

    def close(self) -> None:
        """Free the OpenGL context (OSMesa's are not freed by themselves)."""
        if self._gl is not None:
            self._context.free()
            self._gl.free()
            self._gl = None

    def _cull(self, data: mujoco.MjData, camera_id: int) -> None:
        """Move geoms whose bounding sphere lies outside of the camera's view cone to a group that is not drawn."""
        origin = data.cam_xpos[camera_id]
        right, up, back = data.cam_xmat[camera_id].reshape(3, 3).T
        offset = data.geom_xpos - origin
        depth = -offset @ back
        radius = self._model.geom_rbound
        # Signed distance to the four side planes of the cone, which all run through the camera.
        half_h, half_v = self._camera.hfov / 2, self._camera.vfov / 2
        outside_h = np.abs(offset @ right) * math.cos(half_h) - depth * math.sin(half_h)
        outside_v = np.abs(offset @ up) * math.cos(half_v) - depth * math.sin(half_v)
        visible = (outside_h < radius) & (outside_v < radius) & (depth > -radius)
        self._model.geom_group[:] = np.where(self._shown & ~visible, GROUP_CULLED, self._group)

    def _draw(self, data: mujoco.MjData, camera_name: str) -> mujoco.MjrRect:
        camera_id = self._model.camera(camera_name).id
        self._gl.make_current()
        self._free_camera.type = mujoco.mjtCamera.mjCAMERA_FIXED
        self._free_camera.fixedcamid = camera_id
        self._cull(data, camera_id)
        mujoco.mjv_updateScene(
            self._model, data, self._option, None, self._free_camera, mujoco.mjtCatBit.mjCAT_ALL, self._scene
        )
        self._model.geom_group[:] = self._group
        view = mujoco.MjrRect(0, 0, self._camera.width, self._camera.height_px)
        mujoco.mjr_render(view, self._scene, self._context)
        return view

    def render(self, data: mujoco.MjData, camera_name: str) -> tuple[np.ndarray, np.ndarray]:
        """RGB (H, W, 3) uint8 and depth along the optical axis (H, W) float32 in metres."""
        view = self._draw(data, camera_name)
        rgb = np.empty((view.height, view.width, 3), np.uint8)
        depth = np.empty((view.height, view.width), np.float32)
        mujoco.mjr_readPixels(rgb, depth, view, self._context)
        near, far = self._near_far
        metres = np.float32(near) / (1 - depth[::-1] * np.float32(1 - near / far))
        return np.ascontiguousarray(rgb[::-1]), np.ascontiguousarray(metres)

    def shown_geoms(self, data: mujoco.MjData, camera_name: str) -> np.ndarray:
        """(H, W) int32: id of the geom that each pixel shows, nearer ones hiding those behind; -1 for none."""
        self._scene.flags[mujoco.mjtRndFlag.mjRND_SEGMENT] = 1
        self._scene.flags[mujoco.mjtRndFlag.mjRND_IDCOLOR] = 1
        try:
            view = self._draw(data, camera_name)
            codes = np.empty((view.height, view.width, 3), np.uint8)
            mujoco.mjr_readPixels(codes, None, view, self._context)
        finally:
            self._scene.flags[mujoco.mjtRndFlag.mjRND_SEGMENT] = 0
            self._scene.flags[mujoco.mjtRndFlag.mjRND_IDCOLOR] = 0
        geom_of = np.full(self._scene.maxgeom + 1, -1, np.int32)  # by code; code 0 is the background
        for geom in self._scene.geoms[: self._scene.ngeom]:
            if geom.objtype == mujoco.mjtObj.mjOBJ_GEOM:
                geom_of[geom.segid + 1] = geom.objid
        return geom_of[codes[::-1].astype(np.int32) @ np.asarray([1, 256, 65536], np.int32)]

    def visible_pixels(self, data: mujoco.MjData, camera_name: str, geoms: np.ndarray) -> int:
        """Number of pixels that show one of the geoms (ids)."""
        return int(np.isin(self.shown_geoms(data, camera_name), geoms).sum())

    def plan_view(
        self, data: mujoco.MjData, extent: tuple[float, float], below: float, width: int, robot: bool
    ) -> np.ndarray:
        """The flat straight from above, parallel projection: (H, W, 3) uint8. For people.

        extent: size of the flat in metres, its origin in the lower left corner; the image shows exactly that at
        `width` pixels. below: geoms centred higher than this (ceilings, lintels) are left out. robot: it shows.
        """
        height = round(width * extent[1] / extent[0])
        scale = min(1.0, self._model.vis.global_.offheight / height, self._model.vis.global_.offwidth / width)
        size = (int(width * scale), int(height * scale))
        self._gl.make_current()
        camera = mujoco.MjvCamera()
        camera.type = mujoco.mjtCamera.mjCAMERA_FREE
        camera.orthographic = 1
        camera.lookat[:] = (extent[0] / 2, extent[1] / 2, 0.0)
        camera.distance, camera.azimuth, camera.elevation = 10.0, 90.0, -90.0
        option = mujoco.MjvOption()
        option.geomgroup[:] = 0
        option.geomgroup[[GROUP_HOUSE, GROUP_FURNITURE]] = 1
        option.geomgroup[GROUP_ROBOT] = robot
        self._model.geom_group[:] = np.where(data.geom_xpos[:, 2] < below, self._group, GROUP_CULLED)
        fovy = self._model.vis.global_.fovy
        self._model.vis.global_.fovy = extent[1]  # metres across the image, with a parallel projection
        mujoco.mjv_updateScene(self._model, data, option, None, camera, mujoco.mjtCatBit.mjCAT_ALL, self._scene)
        self._model.vis.global_.fovy = fovy
        self._model.geom_group[:] = self._group
        view = mujoco.MjrRect(0, 0, *size)
        mujoco.mjr_render(view, self._scene, self._context)
        rgb = np.empty((view.height, view.width, 3), np.uint8)
        mujoco.mjr_readPixels(rgb, None, view, self._context)
        return cv2.resize(rgb[::-1], (width, height), interpolation=cv2.INTER_LINEAR)
