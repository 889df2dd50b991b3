"""How the page looks: its theme, its style sheet, and the small pieces of HTML that are no component of Gradio's."""

from collections.abc import Iterable
from html import escape

import gradio as gr

from animation.app.jobs import DONE, FAILED, RUNNING, STOPPED, WAITING, Job
from animation.app.progress import NAMES, Progress
from animation.weights.verification import Finding

FONTS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans", "Liberation Sans", "sans-serif")
MONO = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "Liberation Mono", "monospace")
SIGNS = {"ok": "✓", "note": "i", "warning": "!", "problem": "✕"}

CSS = """
gradio-app, .gradio-container, .gradio-container > .main, .gradio-container .contain { min-width: 0 !important; }
.gradio-container { width: 100% !important; max-width: 1320px !important; margin: 0 auto;
  padding: 20px 0 48px !important; }
.gradio-container > .main { padding: 0 24px !important; box-sizing: border-box; }
footer { display: none !important; }
.head { display: flex; flex-wrap: wrap; gap: 6px 20px; align-items: baseline; justify-content: space-between; }
.head h1 { font-size: 1.55rem; font-weight: 650; letter-spacing: -.015em; margin: 0; }
.head p { margin: 0; color: var(--body-text-color-subdued); }
.networks { font-size: .875rem; color: var(--body-text-color-subdued); margin-top: 8px; }
.networks b { color: var(--body-text-color); font-weight: 600; }
.panel { gap: 16px !important; }
.heading h2 { font-size: 1.02rem; font-weight: 620; margin: 0; }
.hint { color: var(--body-text-color-subdued); font-size: .9rem; margin: 0; }
.html-container { padding: 0 !important; }
.columns { gap: 28px !important; }
.settings { gap: 10px !important; }
.empty { border: 1px dashed var(--input-border-color); border-radius: 14px; padding: 24px; text-align: center;
  color: var(--body-text-color-subdued); min-height: 330px; display: grid; place-content: center; margin-top: 30px; }
.empty b { display: block; color: var(--body-text-color); font-size: 1.05rem; font-weight: 600; margin-bottom: 4px; }
.findings { list-style: none; margin: 0; padding: 0; display: grid; gap: 7px; font-size: .9rem; }
.findings li { display: grid; grid-template-columns: 20px 1fr; gap: 9px; align-items: baseline; margin: 0; }
.findings i { font-style: normal; font-weight: 700; font-size: .7rem; width: 18px; height: 18px; border-radius: 50%;
  display: inline-grid; place-items: center; color: #fff; background: var(--good); transform: translateY(-1px); }
.findings .warning i { background: var(--warn); }
.findings .problem i { background: var(--bad); }
.findings .note i { background: var(--neutral-500); }
.findings span { color: var(--body-text-color-subdued); }
.plan { font-size: .9rem; color: var(--body-text-color-subdued); }
.plan b { color: var(--body-text-color); font-weight: 600; }
.error { border-radius: 10px; padding: 11px 14px; font-size: .92rem; color: var(--bad-text);
  background: var(--bad-fill); overflow-wrap: anywhere; }
.run { border: 1px solid var(--border-color-primary); border-radius: 14px; padding: 16px 18px;
  background: var(--block-background-fill); }
.run .line { display: flex; justify-content: space-between; gap: 12px; align-items: baseline; }
.run .line b { font-weight: 620; }
.run .line span { color: var(--body-text-color-subdued); font-size: .88rem; font-variant-numeric: tabular-nums; }
.bar { height: 6px; border-radius: 3px; margin: 12px 0; overflow: hidden; background: var(--border-color-primary); }
.bar div { height: 100%; border-radius: 3px; background: var(--color-accent); transition: width .6s ease; }
.bar.open div { width: 30% !important; animation: slide 1.6s ease-in-out infinite; }
@keyframes slide { from { margin-left: -30%; } to { margin-left: 100%; } }
@media (prefers-reduced-motion: reduce) { .bar div { animation: none !important; transition: none; } }
.stages { display: flex; flex-wrap: wrap; gap: 3px 14px; margin: 0; padding: 0; list-style: none; font-size: .82rem;
  color: var(--body-text-color-subdued); }
.stages li { margin: 0; }
.stages li::before { content: "○ "; }
.stages .past::before { content: "● "; color: var(--color-accent); }
.stages .now { color: var(--body-text-color); font-weight: 600; }
.stages .now::before { content: "◐ "; color: var(--color-accent); }
.gradio-container { --good: #2b8a3e; --warn: #b35c00; --bad: #c92a2a; --bad-text: #9c1c1c; --bad-fill: #fdeceb; }
.dark .gradio-container, .gradio-container.dark { --good: #2f9e44; --warn: #d9730d; --bad: #e03131;
  --bad-text: #ffb3ad; --bad-fill: #3b1716; --color-accent: #3bc9db; }
.dark .gradio-container button[aria-selected="true"] { color: #3bc9db; }
.pictures .image-container img, .pictures img { object-fit: contain; }
.pick img { cursor: crosshair; }
.actions:not(:has(button)) { display: none !important; }
.shows:not(:has(.block)) { display: none !important; }
.actions { gap: 10px !important; }
#gallery, #gallery .grid-wrap { min-height: 0 !important; max-height: none !important; }
#gallery .grid-wrap { height: auto !important; }
#driver label[data-testid="block-label"] { background: var(--background-fill-primary) !important; }
#advanced .form { display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); align-items: start;
  background: var(--block-background-fill); }
#files tr > :last-child:not(:first-child) button, #files [aria-label^="Remove"] { display: none; }
#die { align-self: center; }
[aria-label="Trim video to selection"], [aria-label="Reset video to initial value"] { display: none !important; }
button:focus-visible, input:focus-visible, a:focus-visible { outline: 2px solid var(--color-accent) !important;
  outline-offset: 2px; }
@media (max-width: 760px) {
  .gradio-container > .main { padding: 0 14px !important; }
  #advanced .form { grid-template-columns: minmax(0, 1fr); }
  .columns { flex-direction: column !important; }
  .columns > * { width: 100% !important; min-width: 0 !important; }
  .empty { min-height: 160px; margin-top: 0; }
}
"""

HEAD = '<meta name="color-scheme" content="light dark"><meta name="robots" content="noindex">'


def theme() -> gr.themes.Base:
    """Calm, with the fonts of the visitor's system."""
    base = gr.themes.Base(
        primary_hue=gr.themes.colors.teal,
        secondary_hue=gr.themes.colors.teal,
        neutral_hue=gr.themes.colors.slate,
        radius_size=gr.themes.sizes.radius_lg,
        spacing_size=gr.themes.sizes.spacing_md,
        font=FONTS,
        font_mono=MONO,
    )
    return base.set(
        body_background_fill="#f7f8fa",
        body_background_fill_dark="#101418",
        block_background_fill="#ffffff",
        block_background_fill_dark="#171c22",
        block_border_color="#e3e7ec",
        block_border_color_dark="#2a313a",
        border_color_primary="#e3e7ec",
        border_color_primary_dark="#2a313a",
        background_fill_primary="#ffffff",
        background_fill_primary_dark="#171c22",
        background_fill_secondary="#f1f3f6",
        background_fill_secondary_dark="#1e252d",
        input_background_fill="#ffffff",
        input_background_fill_dark="#12171c",
        input_border_width="1px",
        input_border_color="#d3d9e0",
        input_border_color_dark="#343d48",
        block_label_background_fill="transparent",
        block_label_background_fill_dark="transparent",
        block_label_border_width="0px",
        block_label_border_width_dark="0px",
        block_label_text_color="#55606e",
        block_label_text_color_dark="#a7b1bd",
        block_title_text_weight="550",
        block_title_text_color="#1c232b",
        block_title_text_color_dark="#e7ebf0",
        block_info_text_size="0.8rem",
        body_text_color="#1c232b",
        body_text_color_dark="#e7ebf0",
        body_text_color_subdued="#55606e",
        body_text_color_subdued_dark="#a7b1bd",
        block_shadow="none",
        button_primary_background_fill="#0b7285",
        button_primary_background_fill_hover="#095c6b",
        button_primary_background_fill_dark="#0b7285",
        button_primary_background_fill_hover_dark="#0e8a9f",
        button_primary_text_color="#ffffff",
        button_primary_text_color_dark="#ffffff",
        button_secondary_background_fill="#ffffff",
        button_secondary_background_fill_hover="#f1f3f6",
        button_secondary_background_fill_dark="#1e252d",
        button_secondary_background_fill_hover_dark="#28313b",
        button_secondary_border_color="#d3d9e0",
        button_secondary_border_color_dark="#343d48",
        button_border_width="1px",
        button_primary_border_color="transparent",
        button_primary_border_color_dark="transparent",
        color_accent="#0b7285",
    )


def head(tiny: bool) -> str:
    """Title, and which networks are in use."""
    if tiny:
        networks = (
            "<b>Small networks</b>, which know drawn figures alone and make small clips. "
            "For photos of people, <code>python download_weights.py</code> fetches the released ones."
        )
    else:
        networks = "<b>The released networks</b> are used. Animate only people who agreed to it."
    return (
        '<div class="head"><h1>StableAnimator</h1><p>A photo, and a movement, become a video.</p></div>'
        f'<div class="networks" id="networks">{networks}</div>'
    )


def heading(text: str, hint: str = "") -> str:
    """A section's heading."""
    told = f'<p class="hint">{escape(hint)}</p>' if hint else ""
    return f'<div class="heading"><h2>{escape(text)}</h2>{told}</div>'


def empty() -> str:
    """What stands where there is nothing yet."""
    return '<div class="empty"><b>Nothing here yet</b>Give a photo and a driver, or animate the example.</div>'


def error(line: str) -> str:
    """An error in its one line."""
    return f'<div class="error" role="alert">{escape(line)}</div>'


def findings(found: Iterable[Finding]) -> str:
    """The findings as a list, the worst first."""
    order = list(SIGNS)[::-1]
    lines = "".join(
        f'<li class="{finding.level}"><i role="img" aria-label="{finding.level}">{SIGNS[finding.level]}</i><div>'
        f"{escape(finding.subject.capitalize())}: {escape(finding.text)}"
        + (f" <span>{escape(finding.remedy.capitalize())}.</span>" if finding.remedy else "")
        + "</div></li>"
        for finding in sorted(found, key=lambda finding: order.index(finding.level))
    )
    return f'<ul class="findings" id="findings">{lines}</ul>'


def plan(text: str) -> str:
    """How long a clip will take, and how much memory."""
    return f'<div class="plan" id="plan">{escape(text)}</div>'


def run(job: Job, progress: Progress, before: int, figures: str) -> str:
    """How a clip stands."""
    if job.state == FAILED:
        return error(job.error or "the run failed")
    if job.state == WAITING:
        told = f"{before} clip{'s' if before != 1 else ''} before yours" if before else "next"
        return _box("Waiting", told, '<div class="bar"><div style="width:0"></div></div>', None)
    if job.state == STOPPED:
        return _box("Stopped", "what was done is kept, and it can go on", "", None)
    if job.state == DONE:
        return _box("Done", figures, "", None)
    assert job.state == RUNNING
    percent = round(100 * progress.share)
    known = progress.of > 0
    bar = (
        f'<div class="bar{"" if known else " open"}" role="progressbar" aria-label="{escape(progress.stage)}" '
        f'aria-valuemin="0" aria-valuemax="100" {f"aria-valuenow={percent}" if known else ""}>'
        f'<div style="width:{percent}%"></div></div>'
    )
    return _box(progress.stage, f"{_count(progress)}{_left(progress.seconds_left)}", bar, progress.stage)


def _box(title: str, told: str, bar: str, stage: str | None) -> str:
    stages = ""
    if stage is not None:
        now = NAMES.index(stage)
        kinds = ["past"] * now + ["now"] + ["next"] * (len(NAMES) - now - 1)
        items = "".join(f'<li class="{kind}">{name}</li>' for kind, name in zip(kinds, NAMES, strict=True))
        stages = f'<ul class="stages">{items}</ul>'
    line = f'<div class="line"><b id="run-state">{escape(title)}</b><span>{escape(told)}</span></div>'
    return f'<div class="run">{line}{bar}{stages}</div>'


def _count(progress: Progress) -> str:
    return f"{progress.done} of {progress.of}" if progress.of else ""


def _left(seconds: float | None) -> str:
    if seconds is None:
        return ""
    minutes, rest = divmod(round(seconds), 60)
    return f" · {minutes}:{rest:02d} left"
