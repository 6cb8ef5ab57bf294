"""`animal-ldm demo`: a page in the browser that generates images with a pipeline."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from ..data.captions import with_article
from ..errors import InputError
from .parsing import parse


@dataclass(frozen=True, kw_only=True)
class DemoArguments:
    """Serve a page that generates images with a model and shows the results in its card. Ctrl+C stops it.

    Requests are processed one at a time; others queue and show their position. The page makes no network requests. It
    needs `pip install 'animal-ldm[demo]'`.
    """

    # Pipeline folder, as `animal-ldm train` writes it, or the id of a model on the Hub.
    model: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="MODEL")]]
    # Port on this machine. Default: the first free one from 7860.
    port: int | None = None
    # Make the page reachable from anywhere for a week, through a public address on gradio's servers.
    share: bool = False
    # Device to run on, such as cpu, cuda or mps; auto is the accelerator if there is one.
    device: str = "auto"


def main(argv: list[str] | None = None) -> None:
    arguments = parse(DemoArguments, argv, prog="animal-ldm demo")
    try:
        from .. import demo
    except ModuleNotFoundError as error:
        if error.name != "gradio":
            raise
        raise InputError("The page needs gradio, which is not installed: pip install 'animal-ldm[demo]'.") from error
    from ..loading import load_pipeline

    pipeline = load_pipeline(arguments.model, arguments.device)
    captions = demo.read_captions(arguments.model)
    prompts = [*map(with_article, pipeline.classes), *captions.examples]
    card = demo.read_card(arguments.model)
    page = demo.build_page(pipeline, Path(arguments.model).name, prompts, card, captions.words)
    try:
        demo.serve(page, server_port=arguments.port, share=arguments.share)
    except OSError as error:
        raise InputError(f"The page cannot be served on --port {arguments.port}: {error}") from error
