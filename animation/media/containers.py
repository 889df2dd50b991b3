"""Video and sound files, opened so that nothing in them leads to another file, a device or the web."""

import io
import os
from collections.abc import Iterator
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image, ImageSequence

# FFmpeg also knows playlists (hls, concat, dash), descriptions of streams (sdp) and devices, which open what they name.
FORMATS = (
    "mov,matroska,gif,apng,avi,flv,asf,mpegts,mpeg,mpegvideo,m4v,h264,hevc,av1,obu,ivf,mjpeg,ogg,mxf,nut,dv,"
    "yuv4mpegpipe,png_pipe,jpeg_pipe,webp_pipe,bmp_pipe,tiff_pipe,wav,w64,aiff,flac,mp3,aac,ac3"
)
LARGEST_FRAME = 64 << 20  # pixels of a frame: decoding one takes up to 8 bytes each, for as many frames as threads
WEBP_SIDE = 16383  # pixels, the most that WebP encoders write; a damaged head says up to 2²⁴
WEBP_ANIMATION = 0x02  # among the flags of a WebP file's head
WEBP_DURATION = 100  # milliseconds of a frame that says none


def open_container(path: str | Path) -> Any:  # PyAV's hints make everything optional that a video always has
    """A file of one of `FORMATS`, or an animated WebP, whatever characters its name has.

    Raises whatever PyAV and Pillow raise where it cannot be read, and ValueError of a WebP too large to be decoded.
    """
    if (size := animated_webp_size(path)) is not None:
        if max(size) > WEBP_SIDE or size[0] * size[1] > LARGEST_FRAME:
            most = f"a side has at most {WEBP_SIDE} and a frame {LARGEST_FRAME >> 20} million"
            raise ValueError(f"{size[0]}×{size[1]} pixels, where {most}")
        status = Path(path).stat()
        return av.open(io.BytesIO(_webp_as_matroska(path, status.st_size, status.st_mtime_ns)))
    return av.open(f"file:{path}", options={"format_whitelist": FORMATS, "protocol_whitelist": "file"})


def animated_webp_size(path: str | Path) -> tuple[int, int] | None:
    """Width and height that an animated WebP's head says, pixels; None of any other file."""
    with Path(path).open("rb") as file:
        head = file.read(30)
    if len(head) < 30 or head[:4] + head[8:16] != b"RIFFWEBPVP8X" or not head[20] & WEBP_ANIMATION:
        return None
    return int.from_bytes(head[24:27], "little") + 1, int.from_bytes(head[27:], "little") + 1


def webp_durations(path: str | Path) -> Iterator[int]:
    """Milliseconds of each frame of an animated WebP, by its list of chunks; nothing is decoded."""
    with Path(path).open("rb") as file:
        file.seek(12)
        while len(chunk := file.read(24)) >= 8:
            kind, size = chunk[:4], int.from_bytes(chunk[4:8], "little")
            if kind == b"ANMF":
                yield int.from_bytes(chunk[20:23], "little") or WEBP_DURATION
            file.seek(8 + size + size % 2 - len(chunk), os.SEEK_CUR)


@lru_cache(maxsize=1)  # a driver is opened several times: for its size, its rate, its frames
def _webp_as_matroska(path: str | Path, size: int, modified_ns: int) -> bytes:
    """The frames of an animated WebP, which FFmpeg does not read, at their times, lossless.

    Args:
        size, modified_ns: of the file, so that a changed one is read again.
    """
    video, time = io.BytesIO(), 0
    with Image.open(path, formats=("WEBP",)) as image, av.open(video, "w", "matroska") as container:
        image.load()
        stream = container.add_stream("ffv1", rate=Fraction(1000, image.info["duration"] or WEBP_DURATION))
        stream.width, stream.height, stream.pix_fmt = *image.size, "bgr0"
        stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        for picture in ImageSequence.Iterator(image):
            frame = av.VideoFrame.from_ndarray(np.asarray(picture.convert("RGB")), format="rgb24")
            frame.pts, frame.duration = time, picture.info["duration"] or WEBP_DURATION
            frame.time_base = stream.time_base
            container.mux(stream.encode(frame))
            time += frame.duration
        container.mux(stream.encode(None))
    return video.getvalue()
