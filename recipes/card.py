"""The tables of the model card, from measured figures."""

from collections.abc import Mapping
from pathlib import Path

from animation.errors import InputError
from animation.files import write_text

BEGIN, END = "<!-- figures: written by recipes.figures -->", "<!-- end of figures -->"
TITLES = {
    "same": "Photo from another moment of the driving video",
    "cross": "Driven by another character",
    "hidden": "The photo hides the face, a clear picture is embedded",
    "long": "60 frames in windows",
}
ROWS = {
    "whole": "whole",
    "25_steps": "in 25 steps",
    "copy": "the photo copied into every frame",
    "vae": "the truth through the VAE",
    "no_poses": "black skeletons",
    "no_face_tokens": "without the face tokens",
    "no_alignment": "without the alignment of distributions",
    "hjb": "with face optimisation (HJB)",
}
COLUMNS = {  # heading, decimals
    "psnr": ("PSNR, dB", 2),
    "pck_0.05": ("PCK@0.05", 3),
    "pck_0.1": ("PCK@0.1", 3),
    "csim_photo": ("CSIM, photo", 3),
    "csim_truth": ("CSIM, truth", 3),
    "csim_driver": ("CSIM, driver", 3),
    "still_flicker": ("flicker", 2),
    "seam": ("seam", 2),
}
KINDS_COLUMNS = {
    "same": ("psnr", "pck_0.05", "pck_0.1", "csim_photo"),
    "cross": ("psnr", "pck_0.05", "pck_0.1", "csim_photo", "csim_driver"),
    "hidden": ("psnr", "pck_0.05", "pck_0.1", "csim_truth"),
    "long": ("psnr", "still_flicker", "seam"),
}


def tables(figures: Mapping[str, Mapping]) -> str:
    """Markdown, a table for each kind of case, in which each figure is a mean ± its deviation over the seeds.

    Args:
        figures: by `KIND/VARIANT`; of each `settings`, and by name a mean and a deviation.
    """
    parts = []
    for kind, title in TITLES.items():
        rows = {name.split("/")[1]: found for name, found in figures.items() if name.startswith(f"{kind}/")}
        rows = {variant: rows[variant] for variant in ROWS if variant in rows}
        if not rows:
            continue
        columns = KINDS_COLUMNS[kind]
        lines = [f"| {title} | {' | '.join(COLUMNS[name][0] for name in columns)} |", "|---" * (1 + len(columns)) + "|"]
        for variant, found in rows.items():
            cells = [_cell(*found[name], COLUMNS[name][1]) if name in found else "–" for name in columns]
            lines.append(f"| {ROWS[variant]} | {' | '.join(cells)} |")
        settings = {
            ", ".join(f"{name} {value}" for name, value in found["settings"].items()) for found in rows.values()
        }
        parts += ["\n".join(lines), f"Numbers: {'; '.join(sorted(settings))}."]
    return "\n\n".join(parts)


def _cell(mean: float, deviation: float, decimals: int) -> str:
    spread = f" ± {deviation:.{decimals}f}" if deviation else ""
    return f"{mean:.{decimals}f}{spread}"


def write_card(figures: Mapping[str, Mapping], path: Path) -> None:
    """Put the tables between the two marks of a Markdown file. Raises InputError where they are missing."""
    text = path.read_text(encoding="utf-8")
    before, begun, rest = text.partition(BEGIN)
    _, ended, after = rest.partition(END)
    if not (begun and ended):
        raise InputError(f"{path}: holds no place for the tables; write {BEGIN} and {END} there, a line each")
    write_text(path, f"{before}{BEGIN}\n\n{tables(figures)}\n\n{END}{after}")
