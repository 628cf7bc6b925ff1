"""The link from an estimator's HTML to its documentation, as scikit-learn shows it."""

from importlib.metadata import PackageNotFoundError, metadata


class Documented:
    """An estimator whose HTML links to the reference, if the package has a URL for it."""

    _doc_link_module = "nnaccel"

    @property
    def _doc_link_template(self) -> str:
        """The URL with a placeholder for the class name; "", which means no link, if the package's
        metadata have no such URL."""
        try:
            urls = metadata("nnaccel").get_all("Project-URL") or []
        except PackageNotFoundError:  # the package is not installed
            urls = []
        for entry in urls:
            label, _, url = entry.partition(", ")
            if label.lower() == "documentation":
                return url.rstrip("/") + "/api.html#nnaccel.{estimator_name}"
        return ""
