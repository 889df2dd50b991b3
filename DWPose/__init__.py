"""DWPose (arXiv 2307.15880): whole-body key points of people in pictures, and the skeletons that the models know."""
