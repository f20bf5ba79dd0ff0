from urllib.parse import urlencode

from django.core.exceptions import PermissionDenied
from django.db import transaction
from django.http import Http404
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.views.decorators.http import require_http_methods, require_safe

from .forms import RevisionForm, TitleForm
from .markup import linked_slugs, slug_of
from .markup import render as to_html
from .models import Page


def body(text):
    existing = Page.objects.filter(slug__in=linked_slugs(text)).values_list("slug", flat=True)
    return to_html(text, set(existing))


@require_safe
def index(request):
    return render(request, "pages/index.html", {"pages": Page.objects.all(), "form": TitleForm()})


@require_safe
def new(request):
    form = TitleForm(request.GET)
    if not form.is_valid():
        return render(request, "pages/index.html", {"pages": Page.objects.all(), "form": form}, status=400)
    title = form.cleaned_data["title"]
    return redirect(f"{reverse('edit', args=[slug_of(title)])}?{urlencode({'title': title})}")


@require_safe
def page(request, slug):
    found = Page.objects.filter(slug=slug).first()
    if not found or not found.latest():
        return render(request, "pages/missing.html", {"slug": checked(slug)}, status=404)
    latest = found.latest()
    return render(request, "pages/page.html", {"page": found, "revision": latest, "body": body(latest.text)})


@require_http_methods(["GET", "HEAD", "POST"])
def edit(request, slug):
    if not request.user.is_authenticated:
        raise PermissionDenied
    if request.method == "POST":
        return save(request, checked(slug))
    found = Page.objects.filter(slug=checked(slug)).first()
    latest = found and found.latest()
    source = found and found.revisions.filter(pk=number(request.GET.get("from"))).first() or latest
    start = {"text": source.text if source else "", "base": latest and latest.pk}
    return show_form(request, slug, found, RevisionForm(initial=start))


@transaction.atomic
def save(request, slug):
    """A new revision of the page; the first one creates it."""
    found = Page.objects.filter(slug=slug).first()
    form = RevisionForm(request.POST, latest=found and found.latest())
    if not form.is_valid():
        return show_form(request, slug, found, form)
    form.instance.page = found or Page.objects.create(slug=slug, title=title_for(request, slug))
    form.instance.author = request.user
    form.save()
    return redirect("page", slug)


def show_form(request, slug, found, form):
    title = found.title if found else title_for(request, slug)
    return render(request, "pages/edit.html", {"title": title, "page": found, "form": form})


@require_safe
def history(request, slug):
    found = get_object_or_404(Page, slug=slug)
    return render(request, "pages/history.html", {"page": found, "revisions": found.revisions.select_related("author")})


@require_safe
def revision(request, slug, revision_id):
    found = get_object_or_404(Page, slug=slug)
    old = get_object_or_404(found.revisions, pk=revision_id)
    return render(request, "pages/page.html", {"page": found, "revision": old, "old": True, "body": body(old.text)})


def checked(slug):
    """Only spellings that a title leads to, so that a page has one address."""
    if slug != slug_of(slug) or len(slug) > Page._meta.get_field("slug").max_length:
        raise Http404
    return slug


def title_for(request, slug):
    form = TitleForm(request.GET)
    if form.is_valid() and slug_of(form.cleaned_data["title"]) == slug:
        return form.cleaned_data["title"]
    return slug.replace("-", " ").capitalize()


def number(text):
    return int(text) if text and text.isascii() and text.isdigit() and len(text) < 19 else None
