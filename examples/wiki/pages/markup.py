"""Text to HTML: paragraphs, line breaks and [[links]]; everything else is shown as it was typed."""

import re

from django.urls import reverse
from django.utils.html import format_html, format_html_join
from django.utils.safestring import mark_safe
from django.utils.text import slugify

LINK = re.compile(r"\[\[([^\[\]\n]{1,120})\]\]")


def slug_of(title):
    return slugify(title, allow_unicode=True)


def linked_slugs(text):
    return {slug_of(title) for title in LINK.findall(text)} - {""}


def render(text, existing):
    """`existing` are the slugs that have a page; links to others are marked as new."""
    paragraphs = re.split(r"\n\s*\n", text.replace("\r\n", "\n").strip())
    return format_html_join("\n", "<p>{}</p>", ((inline(paragraph, existing),) for paragraph in paragraphs))


def inline(paragraph, existing):
    # split() with one group alternates: text, title, text, title, ..., text
    pieces = [
        link(piece, existing) if index % 2 else format_html("{}", piece)
        for index, piece in enumerate(LINK.split(paragraph))
    ]
    return mark_safe("".join(pieces).replace("\n", "<br>\n"))  # every piece is escaped


def link(title, existing):
    slug = slug_of(title)
    if not slug:
        return format_html("[[{}]]", title)
    kind = "known" if slug in existing else "new"
    return format_html('<a class="{}" href="{}">{}</a>', kind, reverse("page", args=[slug]), title)
