"""Published weights: what there is (`registry`), strict loading (`load`), one importer a source."""
