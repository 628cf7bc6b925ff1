"""The HTML of estimators, and its link to their documentation."""

from email.message import Message

import pytest

pytest.importorskip("sklearn", reason="the estimators need scikit-learn")

from nnaccel import MLPClassifier, MLPRegressor, TableClassifier, TableEncoder, TableRegressor
from nnaccel.estimators import documentation

ALL = [MLPClassifier, MLPRegressor, TableClassifier, TableRegressor, TableEncoder]


@pytest.mark.parametrize("cls", ALL)
def test_the_html_links_to_the_site_that_the_package_names(cls, monkeypatch):
    named = Message()
    named["Project-URL"] = "Source, https://code.example/nnaccel"
    named["Project-URL"] = "Documentation, https://docs.example/nnaccel/"
    monkeypatch.setattr(documentation, "metadata", lambda name: named)
    url = f"https://docs.example/nnaccel/api.html#nnaccel.{cls.__name__}"
    assert f'href="{url}"' in cls()._repr_html_()


@pytest.mark.parametrize("cls", ALL)
def test_without_a_site_there_is_no_link(cls, monkeypatch):
    monkeypatch.setattr(documentation, "metadata", lambda name: Message())
    html = cls()._repr_html_()
    assert f"{cls.__name__}</div>" in html
    assert "href=" not in html
