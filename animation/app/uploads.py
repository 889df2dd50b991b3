"""Components that take uploads: a file of this server's upload folder by its path, and nothing else.

Gradio's own would open a picture before its size is checked, and fetch an address that is given in place of a file.
"""

from typing import Any, TypeVar

import gradio as gr

C = TypeVar("C", gr.Image, gr.Video, gr.File)


def as_path(component: C) -> C:
    """The component, made to hand on the path of what was uploaded, not opened, and to refuse addresses."""
    keep = component.async_move_resource_to_block_cache

    async def refuse_addresses(path: Any) -> str | None:
        """What Gradio asks where a file is, before anything else."""
        if "://" in str(path):
            raise gr.Error("give a file, not an address", print_exception=False)
        return await keep(path)

    def preprocess(payload: Any) -> str | None:
        """The path of an upload."""
        return None if payload is None or not payload.path else str(payload.path)

    # Set on the instance: of a subclass, Gradio would write a stub file into this package.
    component.async_move_resource_to_block_cache = refuse_addresses
    component.preprocess = preprocess
    return component
