"""Sphinx, as PyTerrier's documentation is built: furo, Google docstrings, Markdown; nothing is looked up on the web."""

project = "pyterrier_distill"
author = "The pyterrier-distill authors"
copyright = author
extensions = ["sphinx.ext.autodoc", "sphinx.ext.napoleon", "myst_parser"]
html_theme = "furo"
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_inherit_docstrings = False
autoclass_content = "both"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True  # attributes that are properties, too, are described once
myst_heading_anchors = 3
myst_enable_extensions = ["dollarmath"]
