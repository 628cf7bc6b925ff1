"""The link from an estimator's HTML to its documentation, as scikit-learn shows it."""

from importlib.metadata import PackageNotFoundError, metadata


class Documented:
    """An estimator whose HTML links to the reference, if the package says where its site is."""

    _doc_link_module = "nnaccel"

    @property
    def _doc_link_template(self) -> str:
        """The address, with the name of the class to fill in; "", which gives no link, where the
        package's metadata have no URL of that name."""
        try:
            urls = metadata("nnaccel").get_all("Project-URL") or []
        except PackageNotFoundError:  # a checkout that is not installed
            urls = []
        for entry in urls:
            label, _, url = entry.partition(", ")
            if label.lower() == "documentation":
                return url.rstrip("/") + "/api.html#nnaccel.{estimator_name}"
        return ""
