from django.conf import settings
from django.db import models
from django.urls import reverse


class Page(models.Model):
    slug = models.CharField(max_length=120, unique=True)
    title = models.CharField(max_length=120)

    class Meta:
        ordering = ["title"]

    def __str__(self):
        return self.title

    def get_absolute_url(self):
        return reverse("page", args=[self.slug])

    def latest(self):
        return self.revisions.first()


class Revision(models.Model):
    """One saved text of a page; the newest is what the page shows."""

    page = models.ForeignKey(Page, models.CASCADE, related_name="revisions")
    text = models.TextField(max_length=200_000)
    summary = models.CharField(max_length=200, blank=True)
    author = models.ForeignKey(settings.AUTH_USER_MODEL, models.SET_NULL, null=True)
    saved = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["-id"]

    def __str__(self):
        return f"{self.page} #{self.pk}"
