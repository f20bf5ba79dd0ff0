from django.contrib import admin

from .models import Page, Revision


@admin.register(Page)
class PageAdmin(admin.ModelAdmin):
    list_display = ["title", "slug"]
    search_fields = ["title", "slug"]


@admin.register(Revision)
class RevisionAdmin(admin.ModelAdmin):
    list_display = ["page", "author", "saved", "summary"]
    list_filter = ["saved"]
    list_select_related = ["page", "author"]
    search_fields = ["page__title", "text"]
