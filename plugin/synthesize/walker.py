"""An articulated walker: a body and a gait that belong to a subject, and the nuisances of one take.

The body is a set of ellipsoids ("nodes"); a limb or a part of the trunk is the convex hull of two of them ("link").
Joint angles over the gait cycle follow the well-known shapes of normal walking (hip near a cosine, knee with
a small flexion in stance and a large one in swing); subjects differ in their amplitudes, offsets and timing.
Sources: mean segment lengths after the usual anthropometric tables (shares of stature), mean joint angles after
textbook curves of level walking. Spreads between subjects are a choice of this file, not measurements.

Coordinates: metres, right-handed, z up; at heading 0 the walker faces +x and its left is +y. The walker walks
on the spot above the origin: the cameras of camera.py follow it.
Shape letters: T frames, N nodes.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from common.keypoints import COCO_17

__all__ = ["LINKS", "NODES", "Body", "Gait", "Subject", "Take", "Walk", "draw_subject", "draw_take", "walk"]

Array = NDArray[np.float64]

SIDES = {"left": 1.0, "right": -1.0}
NODES = (
    *("pelvis", "hem", "waist", "chest", "neck", "throat", "skull", "hair"),
    *(f"{side}_{part}" for part in ("shoulder", "elbow", "wrist", "hand") for side in SIDES),
    *(f"{side}_{part}" for part in ("hip", "knee", "calf", "ankle", "heel", "toe") for side in SIDES),
)
"""Names of the ellipsoids, in the order of axis N."""

LINKS: tuple[tuple[str, str, str], ...] = (
    *(("pelvis", "hem", "trunk"), ("pelvis", "waist", "trunk"), ("waist", "chest", "trunk")),
    *(("neck", "throat", "head"), ("skull", "skull", "head"), ("skull", "hair", "head")),
    *(("chest", f"{side}_shoulder", "trunk") for side in SIDES),
    *(("neck", f"{side}_shoulder", "trunk") for side in SIDES),
    *(
        (f"{side}_{upper}", f"{side}_{lower}", f"{side}_{limb}")
        for limb, upper, lower in (
            *(("arm", "shoulder", "elbow"), ("arm", "elbow", "wrist"), ("arm", "wrist", "hand")),
            *(("leg", "hip", "knee"), ("leg", "knee", "calf"), ("leg", "calf", "ankle")),
            *(("leg", "ankle", "heel"), ("leg", "heel", "toe"), ("leg", "ankle", "toe")),
        )
        for side in SIDES
    ),
)
"""(node, node, body part) of every convex hull that makes up the body."""

FACE = {
    "nose": (0.92, 0.0, -0.2),
    "left_eye": (0.78, 0.38, 0.05),
    "right_eye": (0.78, -0.38, 0.05),
    "left_ear": (-0.05, 0.9, -0.05),
    "right_ear": (-0.05, -0.9, -0.05),
}
"""Joints of the head in semi-axes of the skull: all of norm below 1, so inside it from every side."""


@dataclass(frozen=True, kw_only=True)
class Body:
    """A subject's proportions. All but the stature are shares, of which `unit_m` is one."""

    height_m: float
    thigh: float
    shank: float
    ankle: float  # height of the ankle above the sole
    foot: float
    torso: float  # hips to base of the neck
    neck: float
    skull_height: float  # semi-axis, as the next two
    skull_depth: float
    skull_width: float
    hair: float  # radius
    hair_drop: float  # how far below the skull's centre the hair hangs
    upper_arm: float
    forearm: float
    hand: float
    shoulders: float  # distance of the shoulder joints
    hips: float  # distance of the hip joints
    build: float  # multiplies all girths below
    chest_width: float  # semi-axes of the trunk
    chest_depth: float
    waist_width: float
    waist_depth: float
    pelvis_width: float
    pelvis_depth: float
    arm_radius: float
    thigh_radius: float
    calf_radius: float

    @property
    def unit_m(self) -> float:
        """Metres in one share, such that sole to crown is `height_m` when standing upright."""
        shares = self.ankle + self.shank + self.thigh + self.torso + self.neck + 1.9 * self.skull_height
        return self.height_m / shares


@dataclass(frozen=True, kw_only=True)
class Gait:
    """A subject's manner of walking. Angles in degrees, lengths in metres."""

    stride_hz: float  # full cycles (two steps) a second
    hip_swing: float  # amplitude
    hip_offset: float
    knee_stance: float
    knee_lift: float
    push_off: float  # how far the heel is up at toe-off
    toe_strike: float  # how far the toes are up at heel strike
    toe_out: float
    step_width: float
    arm_swing: float
    arm_offset: float
    arm_spread: float
    elbow: float  # flexion at rest
    elbow_swing: float
    lean: float  # of the trunk, forward
    head_pitch: float  # forward
    pelvis_turn: float
    pelvis_drop: float
    shoulder_turn: float
    roll: float  # of the trunk, to the side of the standing leg
    sway: float
    bounce: float  # factor on the rise and fall that the legs give
    leg_asymmetry: float  # left over right, as a share of the swing
    arm_asymmetry: float
    limp: float  # departure of the legs' timing from half a cycle


@dataclass(frozen=True)
class Subject:
    """Who walks: everything that stays the same from one sequence to another."""

    body: Body
    gait: Gait


@dataclass(frozen=True, kw_only=True)
class Take:
    """How a subject walks in one sequence: nothing here tells who it is."""

    phase: float = 0.0  # in gait cycles, at time 0
    speed: float = 1.0  # factor on the subject's own
    heading_rad: float = 0.0
    turn_rad: float = 0.0  # amplitude of the slow turning to both sides
    turn_phase: float = 0.0  # in periods
    trunk_bulk: float = 1.0  # clothing: factors on girths
    arm_bulk: float = 1.0
    leg_bulk: float = 1.0
    hem: float = 0.0  # how far down the thighs a coat reaches, 0 for none


@dataclass(frozen=True)
class Walk:
    """A walker in motion: nodes [T, N, 3] (centres), axes [T, N, 3, 3] (columns: semi-axes), joints [T, 17, 3]."""

    nodes: Array
    axes: Array
    joints: Array


BODY_SPREAD: dict[str, tuple[float, float]] = {
    "height_m": (1.70, 0.09),
    **{"thigh": (0.245, 0.013), "shank": (0.245, 0.013), "ankle": (0.042, 0.003), "foot": (0.15, 0.008)},
    **{"torso": (0.288, 0.015), "neck": (0.035, 0.008)},
    **{"skull_height": (0.069, 0.004), "skull_depth": (0.056, 0.003), "skull_width": (0.046, 0.003)},
    **{"hair": (0.05, 0.006), "hair_drop": (0.01, 0.02)},
    **{"upper_arm": (0.172, 0.008), "forearm": (0.147, 0.007), "hand": (0.055, 0.004)},
    **{"shoulders": (0.215, 0.018), "hips": (0.105, 0.009), "build": (1.0, 0.11)},
    **{"chest_width": (0.092, 0.006), "chest_depth": (0.066, 0.006)},
    **{"waist_width": (0.078, 0.009), "waist_depth": (0.058, 0.008)},
    **{"pelvis_width": (0.094, 0.007), "pelvis_depth": (0.066, 0.006)},
    **{"arm_radius": (0.027, 0.003), "thigh_radius": (0.048, 0.005), "calf_radius": (0.033, 0.003)},
}
"""Mean and standard deviation between subjects of every field of `Body`."""

GAIT_SPREAD: dict[str, tuple[float, float]] = {
    **{"stride_hz": (0.92, 0.08), "hip_swing": (22.0, 3.0), "hip_offset": (7.0, 2.0)},
    **{"knee_stance": (15.0, 3.0), "knee_lift": (57.0, 6.0), "push_off": (52.0, 7.0), "toe_strike": (17.0, 5.0)},
    **{"toe_out": (7.0, 5.0), "step_width": (0.14, 0.03)},
    **{"arm_swing": (20.0, 8.0), "arm_offset": (-2.0, 4.0), "arm_spread": (7.0, 3.0)},
    **{"elbow": (16.0, 7.0), "elbow_swing": (16.0, 7.0), "lean": (4.0, 3.5), "head_pitch": (5.0, 6.0)},
    **{"pelvis_turn": (5.0, 2.0), "pelvis_drop": (3.5, 1.5), "shoulder_turn": (5.0, 2.5), "roll": (1.5, 1.0)},
    **{"sway": (0.022, 0.009), "bounce": (1.0, 0.2)},
    **{"leg_asymmetry": (0.0, 0.05), "arm_asymmetry": (0.0, 0.2), "limp": (0.0, 0.012)},
}
"""Mean and standard deviation between subjects of every field of `Gait`."""


def _draw(rng: np.random.Generator, spread: dict[str, tuple[float, float]]) -> dict[str, float]:
    """One value a field, normal and cut at 2.2 standard deviations so that nobody is a monster."""
    return {name: mean + std * float(np.clip(rng.normal(), -2.2, 2.2)) for name, (mean, std) in spread.items()}


def draw_subject(rng: np.random.Generator) -> Subject:
    """A subject at random."""
    return Subject(Body(**_draw(rng, BODY_SPREAD)), Gait(**_draw(rng, GAIT_SPREAD)))


def draw_take(rng: np.random.Generator) -> Take:
    """The nuisances of one sequence at random: start, speed, direction, clothing."""
    wears_coat, reach = rng.random() < 0.2, float(rng.uniform(0.3, 0.8))
    return Take(
        phase=float(rng.random()),
        speed=float(rng.uniform(0.85, 1.15)),
        heading_rad=float(np.deg2rad(rng.normal(0.0, 20.0))),
        turn_rad=float(np.deg2rad(rng.uniform(0.0, 20.0))),
        turn_phase=float(rng.random()),
        trunk_bulk=float(rng.uniform(0.96, 1.2)),
        arm_bulk=float(rng.uniform(0.95, 1.3)),
        leg_bulk=float(rng.uniform(0.95, 1.25)),
        hem=reach if wears_coat else 0.0,
    )


def _bump(phase: Array, centre: float, sharpness: float) -> Array:
    """A smooth periodic bump of height 1 (von Mises) at `centre`, both in gait cycles."""
    return np.exp(sharpness * (np.cos(2 * np.pi * (phase - centre)) - 1))


def _rotation(axis: str, degrees: Array | float, count: int) -> Array:
    """Right-handed rotation about a coordinate axis, [T, 3, 3]."""
    angle = np.broadcast_to(np.deg2rad(degrees), (count,))
    first, second = {"x": (1, 2), "y": (2, 0), "z": (0, 1)}[axis]
    out = np.tile(np.eye(3), (count, 1, 1))
    out[:, first, first] = out[:, second, second] = np.cos(angle)
    out[:, second, first] = np.sin(angle)
    out[:, first, second] = -np.sin(angle)
    return out


class _Figure:
    """Collects nodes while the kinematic chains are followed."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.centres: dict[str, Array] = {}
        self.axes: dict[str, Array] = {}

    def add(self, name: str, origin: Array, frame: Array, offset: tuple[float, ...], radii: float | tuple) -> None:
        """A node at `origin` + `frame` @ `offset`: a sphere, or an ellipsoid with semi-axes along `frame`."""
        self.centres[name] = origin + frame @ np.asarray(offset)
        if isinstance(radii, tuple):
            self.axes[name] = frame * np.asarray(radii)
        else:
            self.axes[name] = np.tile(np.eye(3) * radii, (self.count, 1, 1))


def _own_phase(subject: Subject, side: str, phase: Array) -> Array:
    """Phase of one leg: at 0 its foot strikes the ground, at about 0.6 it leaves it."""
    return phase if side == "left" else phase + 0.5 + subject.gait.limp


def _add_leg(figure: _Figure, subject: Subject, take: Take, side: str, phase: Array, world: Array) -> None:
    """Hip to toe. The foot's pitch is given against the ground, so that a standing foot stands flat."""
    body, gait, sign = subject.body, subject.gait, SIDES[side]
    unit, count = body.unit_m, figure.count
    own = _own_phase(subject, side, phase)
    vigour = take.speed**0.5 * (1 + sign * gait.leg_asymmetry)
    thigh = gait.hip_offset + gait.hip_swing * vigour * np.cos(2 * np.pi * (own + 0.1))
    knee = 4 + gait.knee_stance * _bump(own, 0.15, 7.0) + gait.knee_lift * vigour * _bump(own, 0.675, 2.6)
    pitch = gait.toe_strike * _bump(own, 0.98, 14.0) - gait.push_off * vigour * _bump(own, 0.62, 9.0)

    inward = np.rad2deg(np.arctan2(body.hips * unit - gait.step_width, 2 * (body.thigh + body.shank) * unit))
    outward = world @ _rotation("z", sign * gait.toe_out, count)
    plane = world @ _rotation("x", -sign * inward, count) @ _rotation("z", sign * gait.toe_out * 0.5, count)
    thigh_frame = plane @ _rotation("y", -thigh, count)
    shank_frame = plane @ _rotation("y", -(thigh - knee), count)
    foot_frame = outward @ _rotation("y", -pitch, count)

    girth = body.build * take.leg_bulk * unit
    knee_radius, calf_radius = 0.7 * body.thigh_radius * girth, body.calf_radius * girth
    heel_radius, toe_radius = 0.021 * unit, 0.015 * unit
    at = figure.centres
    figure.axes[f"{side}_hip"] = np.tile(np.eye(3) * body.thigh_radius * girth, (count, 1, 1))
    figure.add(f"{side}_knee", at[f"{side}_hip"], thigh_frame, (0, 0, -body.thigh * unit), knee_radius)
    figure.add(f"{side}_calf", at[f"{side}_knee"], shank_frame, (0, 0, -0.3 * body.shank * unit), calf_radius)
    shank = (0, 0, -body.shank * unit)
    figure.add(f"{side}_ankle", at[f"{side}_knee"], shank_frame, shank, 0.62 * calf_radius)
    back, front = -0.2 * body.foot * unit, 0.7 * body.foot * unit
    heel, toe = (back, 0, heel_radius - body.ankle * unit), (front, 0, toe_radius - body.ankle * unit)
    figure.add(f"{side}_heel", at[f"{side}_ankle"], foot_frame, heel, heel_radius)
    figure.add(f"{side}_toe", at[f"{side}_ankle"], foot_frame, toe, toe_radius)


def _add_arm(figure: _Figure, subject: Subject, take: Take, side: str, phase: Array, world: Array) -> None:
    """Shoulder to hand. An arm swings against the leg of its own side."""
    body, gait, sign = subject.body, subject.gait, SIDES[side]
    unit, count = body.unit_m, figure.count
    own = phase + (0.5 if side == "left" else gait.limp)
    wave = np.cos(2 * np.pi * (own + 0.02))
    vigour = take.speed * (1 + sign * gait.arm_asymmetry)
    upper = gait.arm_offset + gait.arm_swing * vigour * wave
    elbow = np.maximum(gait.elbow + gait.elbow_swing * vigour * (wave + 1) / 2, 2.0)
    plane = world @ _rotation("x", sign * gait.arm_spread, count)
    upper_frame = plane @ _rotation("y", -upper, count)
    lower_frame = plane @ _rotation("y", -(upper + elbow), count) @ _rotation("x", -sign * gait.arm_spread, count)

    radius = body.arm_radius * body.build * take.arm_bulk * unit
    at = figure.centres
    upper_arm, forearm = (0, 0, -body.upper_arm * unit), (0, 0, -body.forearm * unit)
    figure.add(f"{side}_elbow", at[f"{side}_shoulder"], upper_frame, upper_arm, 0.82 * radius)
    figure.add(f"{side}_wrist", at[f"{side}_elbow"], lower_frame, forearm, 0.62 * radius)
    figure.add(f"{side}_hand", at[f"{side}_wrist"], lower_frame, (0, 0, -body.hand * unit), 0.024 * unit)


def _add_trunk(figure: _Figure, subject: Subject, take: Take, phase: Array, world: Array) -> None:
    """Pelvis, hips, trunk, shoulders and head, from the origin up."""
    body, gait, count = subject.body, subject.gait, figure.count
    unit, bulk = body.unit_m, body.build * take.trunk_bulk * body.unit_m
    swing, stance = np.cos(2 * np.pi * phase), np.cos(2 * np.pi * (phase - 0.3))  # left leg forward; left stands
    root = world @ np.array([0.0, 1.0, 0.0]) * (gait.sway * stance)[:, None]
    pelvis = world @ _rotation("z", -gait.pelvis_turn * swing, count)
    pelvis = pelvis @ _rotation("x", gait.pelvis_drop * stance, count)
    trunk = world @ _rotation("z", gait.shoulder_turn * swing, count) @ _rotation("y", gait.lean, count)
    trunk = trunk @ _rotation("x", -gait.roll * stance, count)
    head = world @ _rotation("y", gait.lean * 0.5 + gait.head_pitch, count)

    def ellipsoid(part: str, height: float) -> tuple[float, float, float]:
        return getattr(body, f"{part}_depth") * bulk, getattr(body, f"{part}_width") * bulk, height * unit

    figure.add("pelvis", root, pelvis, (0, 0, 0.02 * unit), ellipsoid("pelvis", 0.065))
    figure.add("waist", root, trunk, (0, 0, 0.42 * body.torso * unit), ellipsoid("waist", 0.05))
    figure.add("chest", root, trunk, (0, 0, 0.74 * body.torso * unit), ellipsoid("chest", 0.06))
    figure.add("neck", root, trunk, (0, 0, body.torso * unit), 0.032 * unit)
    skull = (body.skull_depth * unit, body.skull_width * unit, body.skull_height * unit)
    forward = 0.012 * unit  # a neck is not upright
    up = (body.neck + 0.9 * body.skull_height) * unit
    figure.add("skull", figure.centres["neck"], head, (forward, 0, up), skull)
    figure.add("throat", figure.centres["skull"], head, (-0.01 * unit, 0, -0.4 * skull[2]), 0.03 * unit)
    drop = max(body.hair_drop, 0.0) * unit
    figure.add("hair", figure.centres["skull"], head, (-0.35 * skull[0], 0, 0.01 * unit - drop), body.hair * unit)
    for side, sign in SIDES.items():
        hip = (0, sign * body.hips * unit / 2, 0)
        figure.add(f"{side}_hip", root, pelvis, hip, 1.0)
        shoulder = (0, sign * body.shoulders * unit / 2, 0.93 * body.torso * unit)
        radius = 1.25 * body.arm_radius * body.build * take.arm_bulk * unit
        figure.add(f"{side}_shoulder", root, trunk, shoulder, radius)


def _add_hem(figure: _Figure, subject: Subject, take: Take) -> None:
    """The lower end of a coat, half-way between the thighs; without a coat it hides in the pelvis."""
    at, axes = figure.centres, figure.axes
    low = [(1 - take.hem) * at[f"{side}_hip"] + take.hem * at[f"{side}_knee"] for side in SIDES]
    wears_coat = take.hem > 0
    at["hem"] = (low[0] + low[1]) / 2 if wears_coat else at["pelvis"]
    axes["hem"] = axes["pelvis"] * np.array([1.1, 1.05, 0.3]) if wears_coat else axes["pelvis"]


def _support(subject: Subject, phase: Array, nodes: Array, axes: Array) -> Array:
    """Height of the sole that carries the body, [T]: from one foot over to the other while both are down."""
    soles, weights = [], []
    for side in SIDES:
        own = _own_phase(subject, side, phase)
        feet = [NODES.index(f"{side}_{part}") for part in ("heel", "toe")]
        soles.append((nodes[:, feet, 2] - axes[:, feet, 2, 2]).min(axis=1))
        weights.append(_bump(own, 0.3, 6.0))
    return np.average(np.stack(soles), axis=0, weights=np.stack(weights))


def walk(subject: Subject, take: Take, times_s: Array) -> Walk:
    """The walker at the given times.

    Args:
        subject: body and gait.
        take: phase, speed, direction and clothing of this sequence.
        times_s: [T] seconds, T >= 1. The foot that carries the body stays close to the ground at z = 0; nothing
            else keeps the feet from it, so the other one may dip a few centimetres below at toe-off.

    Raises:
        ValueError: `times_s` is not one-dimensional or empty.
    """
    times_s = np.asarray(times_s, dtype=np.float64)
    if times_s.ndim != 1 or not times_s.size:
        raise ValueError(f"times_s must have shape [T] with T >= 1, got {list(times_s.shape)}")
    count = len(times_s)
    phase = take.phase + subject.gait.stride_hz * take.speed**0.5 * times_s
    turning = take.turn_rad * np.sin(2 * np.pi * (times_s / 6.0 + take.turn_phase))
    world = _rotation("z", np.rad2deg(take.heading_rad + turning), count)

    figure = _Figure(count)
    _add_trunk(figure, subject, take, phase, world)
    for side in SIDES:
        _add_leg(figure, subject, take, side, phase, world)
        _add_arm(figure, subject, take, side, phase, world)
    _add_hem(figure, subject, take)

    nodes = np.stack([figure.centres[name] for name in NODES], axis=1)
    axes = np.stack([figure.axes[name] for name in NODES], axis=1)
    height = _support(subject, phase, nodes, axes)
    nodes[..., 2] -= (height.mean() + subject.gait.bounce * (height - height.mean()))[:, None]
    return Walk(nodes, axes, _joints(nodes, axes))


def _joints(nodes: Array, axes: Array) -> Array:
    """COCO-17 joints [T, 17, 3]: node centres for the limbs, fixed places in the skull for the face."""
    skull = NODES.index("skull")
    joints = []
    for name in COCO_17.names:
        if name in FACE:
            joints.append(nodes[:, skull] + axes[:, skull] @ np.asarray(FACE[name]))
        else:
            joints.append(nodes[:, NODES.index(name)])
    return np.stack(joints, axis=1)
