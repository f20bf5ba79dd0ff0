from django import forms

from .markup import slug_of
from .models import Page, Revision


class TitleForm(forms.Form):
    title = forms.CharField(max_length=Page._meta.get_field("title").max_length)

    def clean_title(self):
        title = self.cleaned_data["title"]
        if not slug_of(title):
            raise forms.ValidationError("A title needs at least one letter or digit.")
        return title


class RevisionForm(forms.ModelForm):
    # The revision that the text was made from; empty for a new page.
    base = forms.IntegerField(required=False, widget=forms.HiddenInput)

    class Meta:
        model = Revision
        fields = ["text", "summary"]
        labels = {"summary": "What changed (optional)"}
        help_texts = {"text": "An empty line starts a paragraph. [[Title]] links to another page."}

    def __init__(self, *args, latest=None, **kwargs):
        super().__init__(*args, **kwargs)
        self.latest = latest

    def clean(self):
        if self.cleaned_data.get("base") != (self.latest and self.latest.pk):
            raise forms.ValidationError("Somebody else saved this page meanwhile. Copy your text and edit again.")
