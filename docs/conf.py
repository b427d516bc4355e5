"""Settings of Sphinx, which builds this folder."""

import io
from contextlib import redirect_stdout
from pathlib import Path

from onnxplain.cli import main
from onnxplain.cli.app import app
from onnxplain.version import __version__

project = "onnxplain"
copyright = "the onnxplain authors"
release = version = __version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["generated"]
myst_heading_anchors = 3
napoleon_google_docstring = False
napoleon_preprocess_types = True
napoleon_type_aliases = {"path": "``path``"}  # else a link to Model.path
autodoc_typehints = "description"
autodoc_member_order = "bysource"
html_theme = "furo"


def write_verbs(_app):
    """Take what the page about the command line shows of each verb from the verb itself."""
    sections = []
    for command in app.registered_commands:
        with redirect_stdout(io.StringIO()) as text:
            main([command.callback.__name__, "--help"])
        sections.append(f"## {command.callback.__name__}\n\n```text\n{text.getvalue()}```\n")
    folder = Path(__file__).parent / "generated"
    folder.mkdir(exist_ok=True)
    (folder / "verbs.md").write_text("\n".join(sections))


def setup(sphinx):
    sphinx.connect("builder-inited", write_verbs)
