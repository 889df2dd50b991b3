"""Skeletons drawn without economies, every step on the full canvas. The oracle of the tests."""

import colorsys
import math

import cv2
import numpy as np

from DWPose.drawing import COLOURS, FINGERS, LIMBS, canvas_size
from DWPose.keypoints import CONFIDENCE


def draw(keypoints: np.ndarray, scores: np.ndarray, width: int, height: int) -> np.ndarray:
    """As `DWPose.drawing.draw`, in the order in which the method is told."""
    canvas_width, canvas_height = canvas_size(width, height)
    canvas = np.zeros((canvas_height, canvas_width, 3), np.uint8)
    points = keypoints * (canvas_width, canvas_height)
    for (a, b), colour in zip(LIMBS, COLOURS, strict=False):
        for person, score in zip(points, scores, strict=True):
            if score[a] >= CONFIDENCE and score[b] >= CONFIDENCE:
                centre = (person[a] + person[b]) / 2
                length = math.dist(person[a], person[b])
                angle = math.degrees(math.atan2(person[a][1] - person[b][1], person[a][0] - person[b][0]))
                outline = cv2.ellipse2Poly(tuple(map(int, centre)), (int(length / 2), 4), int(angle), 0, 360, 1)
                cv2.fillConvexPoly(canvas, outline, [int(c * score[a] * score[b]) for c in colour])
    canvas = (canvas * 0.6).astype(np.uint8)
    for k, colour in enumerate(COLOURS):
        for person, score in zip(points, scores, strict=True):
            if score[k] > CONFIDENCE:
                shade = [int(c * score[k]) for c in colour]
                cv2.circle(canvas, tuple(map(int, person[k])), 4, shade, thickness=-1)
    for first in (92, 113):
        for person, score in zip(points, scores, strict=True):
            hand, hand_score = person[first : first + 21].astype(int), score[first : first + 21]
            for k, (a, b) in enumerate(FINGERS):
                if min(*hand[a], *hand[b]) >= 1:
                    hue = np.array(colorsys.hsv_to_rgb(k / len(FINGERS), 1, 1))
                    shade = hue * int(hand_score[a] * hand_score[b] * 255)
                    cv2.line(canvas, hand[a].tolist(), hand[b].tolist(), shade.tolist(), thickness=2)
            for point, point_score in zip(hand, hand_score, strict=True):
                if min(point) >= 1:
                    cv2.circle(canvas, point.tolist(), 4, (0, 0, int(255 * point_score)), thickness=-1)
    for person, score in zip(points, scores, strict=True):
        for point, point_score in zip(person[24:92].astype(int), score[24:92], strict=True):
            if min(point) >= 1:
                cv2.circle(canvas, point.tolist(), 3, [int(255 * point_score)] * 3, thickness=-1)
    return cv2.resize(canvas, (width, height))
