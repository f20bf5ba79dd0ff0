from django.urls import path

from . import views

urlpatterns = [
    path("", views.index, name="index"),
    path("new/", views.new, name="new"),
    path("page/<str:slug>/", views.page, name="page"),
    path("page/<str:slug>/edit/", views.edit, name="edit"),
    path("page/<str:slug>/history/", views.history, name="history"),
    path("page/<str:slug>/history/<int:revision_id>/", views.revision, name="revision"),
]
