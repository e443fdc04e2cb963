"""Pass the alt sentences of stored pictures on to the pages of our site.

myst-nb takes the alt text of an image from the cell, but ``show``
stores it with the output. This small extension closes the gap: name it in conf.py
with ``extensions = ["myst_nb", "dreamer_lite.course.site"]``.
"""


def setup(app) -> dict:
    """Let myst-nb copy the alt sentence of every output into its image."""
    from myst_nb.core.render import NbElementRenderer

    plain = NbElementRenderer.render_image

    def render_image(self, data):
        found = plain(self, data)
        alt = data.output_metadata.get(data.mime_type, {}).get("alt")
        for node in found:
            if alt and node.tagname == "image":
                node["alt"] = alt
        return found

    NbElementRenderer.render_image = render_image
    return {"parallel_read_safe": True, "parallel_write_safe": True}
