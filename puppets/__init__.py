"""A synthetic world: characters, motions and pictures of them, with everything that is to be known about each picture.

Needs numpy, OpenCV and `DWPose.drawing`; everything comes from seeds.
"""
