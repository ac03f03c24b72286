"""Bodies that are forms with files (multipart/form-data: curl -F, browsers): each field becomes a piece of content of its name, as DJL Serving's server has it."""

import email.parser
import email.policy

from .pair_list import PairList


def unfold(properties, content):
    """The content with a form's fields in place of "data"; any other content, and a form that cannot be read, as it is."""
    content_type = next((value for name, value in properties.items() if name.lower() == "content-type"), "")
    if "data" not in content.keys or content_type.partition(";")[0].strip().lower() != "multipart/form-data":
        return content
    head = b"Content-Type: " + content_type.encode("latin-1", "replace") + b"\r\n\r\n"
    form = email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(head + bytes(content.get("data")))
    parts = form.get_payload() if form.is_multipart() and not form.defects else []
    fields = [(part.get_param("name", header="content-disposition"), part.get_payload(decode=True)) for part in parts]
    if not fields or any(value is None for _, value in fields):
        return content
    unfolded = PairList()
    for key, value in [pair for pair in content if pair[0] != "data"] + fields:
        unfolded.add(key, value)
    return unfolded
