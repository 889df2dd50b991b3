"""Skeletons are extracted by the script of the same name at the top of the project."""

import sys

if __name__ == "__main__":
    print(
        "error: DWPose/skeleton_extraction.py is now skeleton_extraction.py; run python skeleton_extraction.py "
        "--target_video FILE --ref_image_path FILE --poses_folder_path DIR, or with --help",
        file=sys.stderr,
    )
    sys.exit(2)
